/* 256 entry points, 16 bytes apart. Each leaves a struct interrupt_frame on the stack. */

    .section .text.interrupts, "ax"
    .code64
    .balign 16
    .globl interrupt_stubs
interrupt_stubs:
    .set  vector, 0
    .rept 256
    .balign 16
    .if (vector == 8) || ((vector >= 10) && (vector <= 14)) || (vector == 17) || (vector == 21)
    /* the CPU has pushed an error code */
    .else
    pushq $0
    .endif
    pushq $vector
    jmp   interrupt_common
    .set  vector, vector + 1
    .endr

interrupt_common:
    pushq %rax
    pushq %rcx
    pushq %rdx
    pushq %rbx
    pushq %rbp
    pushq %rsi
    pushq %rdi
    pushq %r8
    pushq %r9
    pushq %r10
    pushq %r11
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    cld
    movq  %rsp, %rdi            /* 22 quadwords below an aligned address: aligned */
    call  interrupt_dispatch
    popq  %r15
    popq  %r14
    popq  %r13
    popq  %r12
    popq  %r11
    popq  %r10
    popq  %r9
    popq  %r8
    popq  %rdi
    popq  %rsi
    popq  %rbp
    popq  %rbx
    popq  %rdx
    popq  %rcx
    popq  %rax
    addq  $16, %rsp             /* vector, error code */
    iretq

    .section .note.GNU-stack, "", @progbits
