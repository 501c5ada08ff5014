/* PVH entry: 32-bit protected mode, flat, paging off, EBX = start_info.
   Maps 4 GiB one to one with 2 MiB pages, enters long mode, calls runtime_start().
   The first 2 MiB hold the code and are executable; data, stack and devices are NX. */

    .section .note.pvh, "a", @note
    .balign 4
    .long 4, 4, 18              /* namesz, descsz, XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .long entry32               /* 4 bytes: physical address of the entry */

    .section .text.entry, "ax"
    .code32
    .globl entry32
entry32:
    cli
    cld
    movl  $stack_top, %esp
    movl  %ebx, start_info
    movl  $page_directory_pointers + 3, page_map
    movl  $page_directories + 3, %eax
    movl  $page_directory_pointers, %edi
    movl  $4, %ecx              /* 4 directories, 1 GiB each */
1:  movl  %eax, (%edi)
    addl  $4096, %eax
    addl  $8, %edi
    loop  1b
    movl  $page_directories, %edi
    movl  $0x83, %eax           /* present, writable, 2 MiB */
    xorl  %edx, %edx            /* the first page holds the code: executable */
    movl  $2048, %ecx
2:  movl  %eax, (%edi)
    movl  %edx, 4(%edi)
    movl  $0x80000000, %edx     /* every later page: NX */
    addl  $0x200000, %eax
    addl  $8, %edi
    loop  2b
    movl  $page_map, %eax
    movl  %eax, %cr3
    movl  $0x20, %eax           /* CR4.PAE */
    movl  %eax, %cr4
    movl  $0xC0000080, %ecx     /* EFER: LME and NXE */
    rdmsr
    orl   $0x900, %eax
    wrmsr
    movl  %cr0, %eax
    orl   $0x80000001, %eax     /* PG, PE */
    movl  %eax, %cr0
    lgdt  gdt_pointer
    ljmp  $8, $entry64

    .code64
entry64:
    movl  $16, %eax
    movl  %eax, %ds
    movl  %eax, %es
    movl  %eax, %ss
    xorl  %eax, %eax
    movl  %eax, %fs
    movl  %eax, %gs
    movl  $stack_top, %esp      /* 16-aligned; the call below pushes 8 */
    movl  start_info, %edi
    call  runtime_start
3:  cli
    hlt
    jmp   3b

    .section .rodata.gdt, "a"
    .balign 8
gdt:
    .quad 0
    .quad 0x00AF9B000000FFFF    /* 8: 64-bit code */
    .quad 0x00CF93000000FFFF    /* 16: data */
gdt_pointer:
    .word . - gdt - 1
    .long gdt

    .section .bss.boot, "aw", @nobits
    .balign 4096
page_map:                .skip 4096
page_directory_pointers: .skip 4096
page_directories:        .skip 4 * 4096
    .skip 16384
    .globl stack_top
stack_top:
start_info: .skip 8

    .section .note.GNU-stack, "", @progbits
