/* Every kind of read-modify-write on memory, once a round. RDI: counters, RSI: rounds,
   RDX: an unaligned counter that lies in two pages. Offsets: struct counters in rmw.c. */

    .section .text.rmw, "ax"
    .code64
    .globl rmw_rounds
rmw_rounds:
    pushq %rbx
    pushq %rbp
    pushq %r12
    movq  %rdi, %rbx
    movq  %rsi, %r12
    movq  %rdx, %rbp
1:  incq  0(%rbx)
    addq  $3, 8(%rbx)
    movl  $5, %eax
    xaddq %rax, 16(%rbx)
    movq  24(%rbx), %rax
2:  leaq  1(%rax), %rcx
    cmpxchgq %rcx, 24(%rbx)
    jnz   2b
    lock incq 32(%rbx)
    movl  $7, %eax
    lock xaddq %rax, 40(%rbx)
    movq  48(%rbx), %rax
3:  leaq  1(%rax), %rcx
    lock cmpxchgq %rcx, 48(%rbx)
    jnz   3b
    pushq 56(%rbx)              /* memory to stack, and back, one more */
    addq  $1, (%rsp)
    popq  56(%rbx)
    stc
    adcq  $0, 64(%rbx)
    subq  $1, 72(%rbx)
    lock decq 80(%rbx)
    notq  88(%rbx)
    negq  96(%rbx)
    rolq  $1, 104(%rbx)
    lock btcq $7, 112(%rbx)
    xorq  $0x55, 120(%rbx)
    incb  128(%rbx)
    incw  130(%rbx)
    incl  132(%rbx)
    incq  (%rbp)
    lock addq $1, 8(%rbp)
    movl  $1, %eax
    xchgq %rax, 136(%rbx)       /* what was there, plus one, goes back */
    addq  %rax, 136(%rbx)
    incq  144(%rbx)             /* the interrupt handler counts here, too */
    lock incq 152(%rbx)         /* and here */
    movq  0(%rbx), %rax         /* strings: 64 bytes of the round, copied, and one byte summed */
    leaq  192(%rbx), %rdi
    movl  $64, %ecx
    rep stosb
    leaq  192(%rbx), %rsi
    leaq  256(%rbx), %rdi
    movl  $8, %ecx
    rep movsq
    movzbl 319(%rbx), %eax
    addq  %rax, 160(%rbx)
    decq  %r12
    jnz   1b
    popq  %r12
    popq  %rbp
    popq  %rbx
    ret

    .section .note.GNU-stack, "", @progbits
