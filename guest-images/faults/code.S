/* Code that changes itself. Copied to a page that is writable and executable; RIP-relative. */

    .section .text.changing, "ax"
    .code64
    .globl next_instruction, next_instruction_end
next_instruction:               /* EDI: what the changed instruction returns */
    movl  %edi, 1f + 1(%rip)
1:  movl  $0, %eax
    ret
next_instruction_end:

    .globl changing_loop, changing_loop_end
changing_loop:                  /* EDI: rounds; the constant counts them */
    xorl  %ecx, %ecx
1:  incl  2f + 1(%rip)
2:  movl  $0, %eax
    addl  %eax, %ecx
    decl  %edi
    jnz   1b
    movl  %ecx, %eax
    ret
changing_loop_end:

    .globl string_store, string_store_end
string_store:                   /* turn UD2s into NOPs and run them */
    movl  $0x90, %eax
    movl  $8, %ecx
    leaq  1f(%rip), %rdi
    rep stosb
1:  ud2
    ud2
    ud2
    ud2
    movl  $0x55, %eax
    ret
string_store_end:

    .globl string_move, string_move_end
string_move:                    /* copy the code at 2 over the code at 1 and run it */
    leaq  2f(%rip), %rsi
    leaq  1f(%rip), %rdi
    movl  $6, %ecx
    cld
    rep movsb
1:  movl  $0x11, %eax
    ret
2:  movl  $0x22, %eax
    ret
string_move_end:

    .globl store_and_jump, store_and_jump_end
store_and_jump:                 /* EDI: value, RSI: a MOV EAX in another page */
    movl  %edi, 1(%rsi)
    jmp   *%rsi
store_and_jump_end:

    .section .note.GNU-stack, "", @progbits
