/* Single instructions as inline functions: ports, MMIO, MSRs, barriers, counters. */
#ifndef CPU_H
#define CPU_H

#include "types.h"

static inline void out8(u16 port, u8 value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static inline void out16(u16 port, u16 value)
{
    __asm__ volatile("outw %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static inline void out32(u16 port, u32 value)
{
    __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static inline u8 in8(u16 port)
{
    u8 value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}

static inline u16 in16(u16 port)
{
    u16 value;
    __asm__ volatile("inw %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}

static inline u32 in32(u16 port)
{
    u32 value;
    __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}

/* `count` is in elements of the width in the name. */
static inline void in16_string(u16 port, void *to, u64 count)
{
    __asm__ volatile("rep insw" : "+D"(to), "+c"(count) : "d"(port) : "memory");
}

static inline void in32_string(u16 port, void *to, u64 count)
{
    __asm__ volatile("rep insl" : "+D"(to), "+c"(count) : "d"(port) : "memory");
}

static inline void out16_string(u16 port, const void *from, u64 count)
{
    __asm__ volatile("rep outsw" : "+S"(from), "+c"(count) : "d"(port) : "memory");
}

static inline void out32_string(u16 port, const void *from, u64 count)
{
    __asm__ volatile("rep outsl" : "+S"(from), "+c"(count) : "d"(port) : "memory");
}

/* Device registers. Everything below 4 GiB is mapped one to one. */
static inline u8 mmio_read8(u64 address) { return *(volatile u8 *)address; }
static inline u16 mmio_read16(u64 address) { return *(volatile u16 *)address; }
static inline u32 mmio_read32(u64 address) { return *(volatile u32 *)address; }
static inline void mmio_write8(u64 address, u8 value) { *(volatile u8 *)address = value; }
static inline void mmio_write16(u64 address, u16 value) { *(volatile u16 *)address = value; }
static inline void mmio_write32(u64 address, u32 value) { *(volatile u32 *)address = value; }

static inline u64 read_msr(u32 msr)
{
    u32 low, high;
    __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr) : "memory");
    return (u64)high << 32 | low;
}

static inline void write_msr(u32 msr, u64 value)
{
    __asm__ volatile("wrmsr" : : "c"(msr), "a"((u32)value), "d"((u32)(value >> 32)) : "memory");
}

struct cpuid { u32 eax, ebx, ecx, edx; };

static inline struct cpuid cpuid(u32 leaf, u32 subleaf)
{
    struct cpuid r;
    __asm__ volatile("cpuid" : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx)
                     : "a"(leaf), "c"(subleaf) : "memory");
    return r;
}

static inline u64 read_tsc(void)
{
    u32 low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high) : : "memory");
    return (u64)high << 32 | low;
}

static inline u64 read_cr2(void) { u64 v; __asm__ volatile("mov %%cr2, %0" : "=r"(v)); return v; }
static inline u64 read_cr3(void) { u64 v; __asm__ volatile("mov %%cr3, %0" : "=r"(v)); return v; }
static inline void write_cr3(u64 v) { __asm__ volatile("mov %0, %%cr3" : : "r"(v) : "memory"); }
static inline u64 read_cr8(void) { u64 v; __asm__ volatile("mov %%cr8, %0" : "=r"(v)); return v; }
static inline void write_cr8(u64 v) { __asm__ volatile("mov %0, %%cr8" : : "r"(v) : "memory"); }

static inline void invlpg(u64 address)
{
    __asm__ volatile("invlpg (%0)" : : "r"(address) : "memory");
}

static inline void relax(void) { __asm__ volatile("pause" : : : "memory"); }

/* Order of the compiler only; the CPU keeps loads and stores among themselves in order. */
static inline void compiler_barrier(void) { __asm__ volatile("" : : : "memory"); }

/* A store before it is visible before a load after it is done. */
static inline void full_barrier(void) { __asm__ volatile("mfence" : : : "memory"); }

static inline void interrupts_off(void) { __asm__ volatile("cli" : : : "memory"); }
static inline void interrupts_on(void) { __asm__ volatile("sti" : : : "memory"); }

/* Call with interrupts off. STI takes effect after HLT has begun, so an interrupt that is
   already pending ends the halt instead of being lost before it. Interrupts are off after it. */
static inline void halt_until_interrupt(void)
{
    __asm__ volatile("sti\n\thlt\n\tcli" : : : "memory");
}

/* a * b / c, with a product of 128 bits; the quotient must fit 64 bits. */
static inline u64 mul_div(u64 a, u64 b, u64 c)
{
    u64 low, high;
    __asm__("mulq %3" : "=a"(low), "=d"(high) : "a"(a), "rm"(b) : "cc");
    __asm__("divq %2" : "+a"(low), "+d"(high) : "rm"(c) : "cc");
    return low;
}

#endif
