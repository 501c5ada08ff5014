/* One instruction each that faults or traps. NAME_at is the instruction, NAME_after the next. */

    .macro begin name
    .globl \name
\name:
    .endm
    .macro at name
    .globl \name\()_at
\name\()_at:
    .endm
    .macro after name
    .globl \name\()_after
\name\()_after:
    .endm
    .macro single name, instruction:vararg
    begin \name
    at \name
    \instruction
    after \name
    ret
    .endm

    .section .text.snippets, "ax"
    .code64

    begin divide_by_zero
    xorl  %edx, %edx
    movl  $1, %eax
    xorl  %ecx, %ecx
    at divide_by_zero
    divl  %ecx
    after divide_by_zero
    ret

    begin divide_overflow
    movl  $0x80000000, %eax
    cdq
    movl  $-1, %ecx
    at divide_overflow
    idivl %ecx
    after divide_overflow
    ret

    single trap_int1, .byte 0xF1
    single trap_int3, int3
    single undefined_ud2, ud2
    single undefined_push_es, .byte 0x06
    single undefined_cr1, .byte 0x0F, 0x20, 0xC8        /* mov %cr1, %rax */
    single x87_init, fninit
    single x87_wait, fwait
    single read_at, movq (%rdi), %rax
    single read32_at, movl (%rdi), %eax
    single write_at, movq %rdi, (%rdi)
    single increment_at, incq (%rdi)
    single load_ds, movl %edi, %ds
    single load_ss, movl %edi, %ss
    single interrupt_0x40, int $0x40
    single interrupt_0x90, int $0x90
    single go_to, jmp *%rdi

    begin push_to               /* RDI: RSP, 8 beyond where the push goes */
    movq  %rdi, %rsp
    at push_to
    pushq %rax
    after push_to
    ret

    begin pop_to                /* POP computes the new RSP before it stores: a fault undoes it */
    pushq $1
    movq  %rsp, %rbx
    at pop_to
    popq  (%rdi)
    after pop_to
    popq  %rax
    ret

    begin rep_store             /* RDI: 16 bytes before a page that is missing */
    movl  $32, %ecx
    at rep_store
    rep stosb
    after rep_store
    ret

    begin rep_in
    movl  $32, %ecx
    movl  $0x100, %edx          /* nobody's port */
    at rep_in
    rep insb
    after rep_in
    ret

    begin x87_zero_divide
    fninit
    pushq $0x37B                /* control word: zero divide unmasked */
    fldcw (%rsp)
    popq  %rax
    fld1
    fldz
    fdivrp %st, %st(1)          /* 1 / 0: pending */
    at x87_zero_divide
    fwait
    after x87_zero_divide
    ret

    begin far_return_to_data
    pushq $0x10
    pushq $far_return_to_data_after
    at far_return_to_data
    lretq
    after far_return_to_data
    ret

    begin flags_then_ud2
    pushq $0xCD7                /* CF PF AF ZF SF DF OF */
    popfq
    at flags_then_ud2
    ud2
    after flags_then_ud2
    ret

    begin trap_flag_nop
    pushq $0x102
    popfq                       /* TF from the next instruction on */
    at trap_flag_nop
    nop
    after trap_flag_nop
    nop
    ret

    begin interrupts_on_then_ud2
    sti
    at interrupts_on_then_ud2
    ud2
    after interrupts_on_then_ud2
    ret

    /* privileged */
    single privileged_cli, cli
    single privileged_hlt, hlt
    single privileged_clts, clts
    single privileged_rdmsr, rdmsr
    single privileged_wrmsr, wrmsr
    single privileged_cr3, movq %cr3, %rax
    single privileged_dr7, movq %dr7, %rax
    single privileged_lgdt, lgdt (%rsp)
    single privileged_lidt, lidt (%rsp)
    single privileged_ltr, ltr %ax
    single privileged_invlpg, invlpg (%rsp)
    single privileged_wbinvd, wbinvd
    single privileged_swapgs, swapgs

    begin port_in
    at port_in
    inb   $0x80, %al
    after port_in
    int   $0x81

    begin port_out
    at port_out
    outb  %al, $0x80
    after port_out
    int   $0x81

    begin port_in_word          /* two ports: both must be permitted */
    at port_in_word
    inw   $0x80, %ax
    after port_in_word
    int   $0x81

    begin call_and_exit
    movq  $0x1111, %rax
    movq  $0x2222, %rbx
    movq  $0x3333, %r15
    pushq $0xCD7
    popfq
    at call_and_exit
    int   $0x80                 /* the kernel comes back */
    after call_and_exit
    pushfq
    popq  %rcx
    int   $0x81

    begin user_syscall
    movq  $0x4444, %rbx
    pushq $0x8D7
    popfq
    at user_syscall
    syscall
    after user_syscall
    int   $0x81

    begin user_spin
    at user_spin
    jmp   user_spin
    after user_spin
    ret

    begin wide_mode             /* 0x40 is a REX prefix in 64-bit mode, INC EAX in 32-bit mode */
    movl  $0x42, %eax
    .byte 0x40
    nop
    at wide_mode
    int   $0x81
    after wide_mode
    ret

    .code32
    begin overflow_into
    movl  $0x7FFFFFFF, %eax
    incl  %eax
    at overflow_into
    into
    after overflow_into
    nop

    begin bound_outside
    movl  $5, %eax
    at bound_outside
    .byte 0x62, 0x05            /* bound %eax, bounds */
    .long bounds
    after bound_outside
    nop

    .code64

    /* interrupt windows; RDI is unused unless said */
    begin window_sti
    sti
    at window_sti
    nop                         /* still in the shadow of STI */
    after window_sti
    nop
    cli
    ret

    begin window_popf
    pushq $0x202
    at window_popf
    popfq
    after window_popf
    nop
    cli
    ret

    begin window_cli
    sti
    at window_cli
    cli                         /* in the shadow of STI: the window never opens */
    after window_cli
    nop
    nop
    ret

    begin window_hlt
    sti
    at window_hlt
    hlt
    after window_hlt
    cli
    ret

    begin window_mov_ss         /* RDI: address of a word that ends the loop */
    movl  %ss, %eax
    sti
1:  nop
    at window_mov_ss
    movl  %eax, %ss
    after window_mov_ss
    nop                         /* no interrupt may come in front of this */
    cmpq  $0, (%rdi)
    je    1b
    cli
    ret

    begin raise_int_0x40        /* used where a handler must come back here */
    at raise_int_0x40
    int   $0x40
    after raise_int_0x40
    ret

    /* SYSCALL arrives here: keep what the CPU left, and go back or end the run. */
    .globl syscall_entry
syscall_entry:
    movq  %rcx, syscall_rcx
    movq  %r11, syscall_r11
    movq  %rsp, syscall_rsp
    movq  $stack_for_syscall, %rsp
    pushfq
    popq  syscall_rflags
    movl  %cs, %eax
    movq  %rax, syscall_cs
    movl  %ss, %eax
    movq  %rax, syscall_ss
    incq  syscall_count
    movq  syscall_rsp, %rsp
    sysretq

    .section .rodata.bounds, "a"
    .balign 8
bounds:
    .long 0, 4

    .section .bss.syscall, "aw", @nobits
    .balign 16
    .skip 1024
stack_for_syscall:
    .globl syscall_rcx, syscall_r11, syscall_rsp, syscall_rflags, syscall_cs, syscall_ss, syscall_count
syscall_rcx:    .skip 8
syscall_r11:    .skip 8
syscall_rsp:    .skip 8
syscall_rflags: .skip 8
syscall_cs:     .skip 8
syscall_ss:     .skip 8
syscall_count:  .skip 8

    .section .note.GNU-stack, "", @progbits
