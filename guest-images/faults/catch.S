/* Call code and survive its exception: the handler goes on at catch_resume. */

    .section .text.catch, "ax"
    .code64
    .globl catch_enter, catch_resume, catch_enter_ring

catch_enter:                    /* RDI: code, RSI: its argument */
    pushfq
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq  %rsp, catch_stack
    movq  %rdi, %rax
    movq  %rsi, %rdi
    call  *%rax
    movq  %rax, catch_value
catch_resume:
    movq  catch_stack, %rsp
    popq  %r15
    popq  %r14
    popq  %r13
    popq  %r12
    popq  %rbp
    popq  %rbx
    popfq
    ret

catch_enter_ring:               /* RDI: struct ring_start */
    movq  %rdi, %rax
    movq  40(%rax), %rdi
    pushq 32(%rax)              /* SS */
    pushq 24(%rax)              /* RSP */
    pushq 16(%rax)              /* RFLAGS */
    pushq 8(%rax)               /* CS */
    pushq (%rax)                /* RIP */
    iretq

    .section .note.GNU-stack, "", @progbits
