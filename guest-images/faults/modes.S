/* Long mode -> compatibility -> protected -> real mode, and all the way back.
   Source: AMD64 APM volume 2, 14.7 and Intel SDM volume 3, 9.8.5.4 and 9.9.2.
   Each mode prints a letter: C and P come by INC EAX, which is a REX prefix in 64-bit
   mode, R by an INT through the real-mode vector table. */

#define CODE64 0x08
#define DATA 0x10
#define CODE32 0x18
#define CODE16 0x40
#define DATA16 0x48
#define REAL_SEGMENT 0x800
#define REAL_ADDRESS 0x8000
#define EFER 0xC0000080
#define CR0_PG 0x80000000

    .section .text.modes, "ax"
    .code64
    .globl modes_trip
modes_trip:
    pushfq
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    cli
    movq  %rsp, saved_rsp
    sidt  saved_idt
    pushq $CODE32
    pushq $1f
    lretq

    .code32
1:  movw  $0x3F8, %dx
    movl  $'C' - 1, %eax
    .byte 0x40                  /* INC EAX */
    nop
    outb  %al, %dx
    movl  %cr0, %eax
    andl  $~CR0_PG, %eax
    movl  %eax, %cr0            /* LMA falls with it */
    movl  $EFER, %ecx
    rdmsr
    movl  %eax, modes_efer_off
    andl  $~0x100, %eax         /* LME */
    wrmsr
    movl  $DATA, %eax
    movl  %eax, %ds
    movl  %eax, %es
    movl  %eax, %ss
    movl  $'P' - 1, %eax
    .byte 0x40
    nop
    movw  $0x3F8, %dx
    outb  %al, %dx
    ljmp  $CODE16, $REAL_ADDRESS

back32:
    movl  $DATA, %eax
    movl  %eax, %ds
    movl  %eax, %es
    movl  %eax, %ss
    movl  $EFER, %ecx
    rdmsr
    orl   $0x100, %eax
    wrmsr
    movl  %cr0, %eax
    orl   $CR0_PG, %eax
    movl  %eax, %cr0
    ljmp  $CODE64, $back64

    .code64
back64:
    xorl  %eax, %eax
    movl  %eax, %fs
    movl  %eax, %gs
    movq  saved_rsp, %rsp
    lidt  saved_idt
    popq  %r15
    popq  %r14
    popq  %r13
    popq  %r12
    popq  %rbp
    popq  %rbx
    popfq
    ret

    /* Copied to REAL_ADDRESS; offsets from here are offsets in REAL_SEGMENT. */
    .balign 16
    .globl real_mode_start, real_mode_end, real_mode_interrupt
    .code16
real_mode_start:
    movw  $DATA16, %ax
    movw  %ax, %ds
    movw  %ax, %es
    movw  %ax, %ss
    movw  %ax, %fs
    movw  %ax, %gs
    lidtw REAL_ADDRESS + real_idt - real_mode_start
    movl  %cr0, %eax
    andl  $~1, %eax
    movl  %eax, %cr0
    ljmpw $REAL_SEGMENT, $real_mode - real_mode_start
real_mode:
    movw  $REAL_SEGMENT, %ax
    movw  %ax, %ds
    movw  %ax, %es
    movw  %ax, %ss
    movl  $0x0F00, %esp
    xorw  %ax, %ax
    int   $0x60                 /* through the vector table at 0 */
    movw  $0x3F8, %dx
    outb  %al, %dx
    movl  %cr0, %eax
    orl   $1, %eax
    movl  %eax, %cr0
    ljmpl $CODE32, $back32
real_mode_interrupt:
    movw  $'R', %ax
    iretw
real_idt:
    .word 0x3FF
    .long 0
real_mode_end:

    .section .bss.modes, "aw", @nobits
    .balign 16
    .globl modes_efer_off
saved_rsp:      .skip 8
saved_idt:      .skip 16
modes_efer_off: .skip 4

    .section .note.GNU-stack, "", @progbits
