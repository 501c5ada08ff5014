/* Machine code that the engine calls without entering Python (Unicorn 2.1.4, x86-64 Linux).
 *
 * build.py compiles this file to one flat, position-independent blob, blob.py. Nothing here may need a
 * relocation: no globals but `table`, no strings, no switch tables, no libc. load.py fills `table` and
 * registers the functions; layout.py has the same offsets for Python. */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;

/* Private fields of the 2.1.4 wheel. */
enum { CPU_INTERRUPT_REQUEST = 28, CPU_ENV = 296, CPU_ICOUNT_DECR = 304, CPU_EXCEPTION_INDEX = 33184 };
enum { ENV_RAX = 0, ENV_RCX = 8, ENV_RDX = 16, ENV_RSP = 32, ENV_R11 = 88, ENV_RIP = 128, ENV_EFLAGS = 136, ENV_CC_SRC = 152,
       ENV_CC_OP = 168, ENV_DF = 172, ENV_HFLAGS = 176, ENV_CS = 208, ENV_SS = 232, ENV_EFER = 592,
       ENV_SYSENTER_CS = 4800, ENV_SYSENTER_ESP = 4808, ENV_SYSENTER_EIP = 4816,
       ENV_STAR = 4824, ENV_LSTAR = 4840, ENV_FMASK = 4856,
       ENV_ERROR_CODE = 5384, ENV_EXCEPTION_IS_INT = 5388 };
/* The software TLB lies right before env: per MMU mode one {mask, table} pair and one block with
 * the victim entries, their io words, and a pointer to the io words of the table. */
enum { TLB_FAST = -0x40, FAST_SIZE = 16, TLB_VICTIM = -0x840, DESC_SIZE = 0x2B8,
       VICTIM_IO = 0x200, TABLE_IO = 0x280, MMU_MODES = 3, VICTIMS = 8 };
/* Before the victim entries of a mode: what large pages cover, address and mask. */
enum { LARGE_ADDR = -0x30, LARGE_MASK = -0x28 };
enum { ENV_CR0 = 424, CR0_PG = 1U << 31, EFER_NXE = 1 << 11 };
/* A translated block: address, length, and the ram_addr of its one or two pages (-1: none). */
enum { TB_PC = 0, TB_SIZE = 0x14, TB_PAGES = 0x48 };
enum { NOTDIRTY = 0x400, NOT_PLAIN = 0xE40, PAGE = 0x1000 };   /* 0xE40: invalid, notdirty, mmio, discard */
enum { IF = 0x200, RF = 0x10000, VM = 0x20000, PE = 1 << 7, LMA = 1 << 14, CS64 = 1 << 15 };
enum { EXCP_UD = 6, EXCP_GP = 13, EFER_SCE = 1 };
enum { EXIT_INTR = 0x160, EXIT_INIT = 0x163, EXIT_MSR = 0x17C };
/* Bits of two bytes of the CPU's requests: an INTA cycle; INIT, which no guest can ask for, so it means "leave". */
enum { REQUEST = CPU_INTERRUPT_REQUEST, HARD = 2, REQUEST_HIGH = CPU_INTERRUPT_REQUEST + 1, LEAVE = 4 };
enum { X2APIC_EOI = 0x80B };
enum { SYS_WRITE = 1, SYS_MEMBARRIER = 324, PRIVATE_EXPEDITED = 8 };

#define FIELD(type, base, offset) (*(type volatile *)((u8 *)(base) + (offset)))

struct machine {                    /* one per engine; written by Python, must outlive it */
    struct machine *next;
    void *uc, *cpu;
    u8 *has_code;                   /* per page of ram_addr: 0 = no translated code, stores are fast */
    u64 pages;
    u64 wake_fd;                    /* an eventfd: ends the wait of a halted vCPU */
    u32 waiting;                    /* 1 while the vCPU thread waits on it */
    u32 alarm;                      /* 1 once a deadline has passed, until Python clears it */
    u64 interrupts;                 /* delivered to the guest */
    u64 one;                        /* what is written to wake_fd */
    struct watch *watch;            /* other processes write the guest's memory; NULL: none does */
};

struct table {                      /* at `table`, filled before the first call, then only read */
    void (*do_interrupt)(void *cpu);
    void (*do_hardirq)(void *env, int vector, int is_hw);
    u32 (*compute_flags)(void *env, int cc_op);
    void (*raise_exception)(void *env, int number);
    void (*raise_exception_err)(void *env, int number, int error_code);
    u32 (*load_code_byte)(void *env, u64 address);
    void (*check_io[3])(void *env, u32 port);            /* 1, 2, 4 bytes: #GP where the TSS forbids it */
    int (*emu_stop)(void *uc);
    void (*set_page)(void *cpu, u64 vaddr, u64 paddr, u32 attrs, int prot, int mode, u64 size);
    void (*set_dirty)(void *cpu, u64 vaddr);
    void (*reset_dirty_by_vaddr)(void *cpu, u64 vaddr, u64 length);
    void (*flush_page)(void *cpu, u64 vaddr);
    void (*flush)(void *cpu);
    void (*invalidate)(void *uc, u64 start, u64 end);
    void (*insert_block)(void *tcg, void *block);
    struct machine *machines;
};

/* In .text, so that code finds it relative to RIP and the assembler needs no relocation. */
__asm__(".text\n.p2align 6\ntable: .zero 192\n.p2align 6\n");
extern struct table table __attribute__((visibility("hidden")));

static long write_one(u64 fd, u64 *one)
{
    long result;
    __asm__ volatile("syscall" : "=a"(result)
                     : "a"(SYS_WRITE), "D"(fd), "S"(one), "d"(8) : "rcx", "r11", "memory");
    return result;
}

/* ---- the INTA cycle of the local APIC, without Python ------------------------------------------------ */
struct apic {                       /* emu/bus/interrupt_block.py */
    u8 posted[256];                 /* by vector; set by any thread, before `outstanding` */
    u64 irr[4], isr[4], tmr[4];     /* the vCPU thread's own, as all below */
    u64 ppr;
    u64 outstanding;
    u64 enabled;
    u64 external;                   /* 1: the 8259's INTR is high and let through */
    u64 tpr;
    u64 eois;                       /* ends of interrupt that were served here */
    u64 xapic;                      /* 1: the EOI register is in memory, where the engine was told */
    u64 x2apic;                     /* 1: it is an MSR */
};

static int highest(u64 *words)
{
    for (int i = 3; i >= 0; i--)
        if (words[i])
            return 64 * i + 63 - __builtin_clzl(words[i]);
    return -1;
}

static void fold(struct apic *apic)
{
    if (!__atomic_exchange_n(&apic->outstanding, 0, __ATOMIC_SEQ_CST))
        return;
    for (int word = 0; word < 32; word++) {
        if (!((volatile u64 *)apic->posted)[word])
            continue;
        for (int vector = 8 * word; vector < 8 * word + 8; vector++)
            if (__atomic_exchange_n(&apic->posted[vector], 0, __ATOMIC_SEQ_CST)) {
                apic->irr[vector >> 6] |= 1UL << (vector & 63);
                apic->tmr[vector >> 6] &= ~(1UL << (vector & 63));
            }
    }
}

/* The deliverable vector goes in service; -1 where there is none, or Python must look. */
static int inta(struct apic *apic)
{
    if (!apic || !apic->enabled)
        return -1;
    fold(apic);
    int vector = highest(apic->irr);
    if (vector < 0 || (u64)vector >> 4 <= apic->ppr >> 4)
        return -1;
    apic->irr[vector >> 6] &= ~(1UL << (vector & 63));
    apic->isr[vector >> 6] |= 1UL << (vector & 63);
    apic->ppr = vector & 0xF0;                              /* it was above PPR, so it now sets it */
    return vector;
}

/* The EOI register was written. 0: Python must do it, for a level-triggered interrupt. */
static int end_of_interrupt(struct apic *apic, void *cpu)
{
    int vector = highest(apic->isr);

    if (!apic->enabled || (vector >= 0 && apic->tmr[vector >> 6] >> (vector & 63) & 1))
        return 0;
    apic->eois++;
    if (vector < 0)
        return 1;
    apic->isr[vector >> 6] &= ~(1UL << (vector & 63));
    vector = highest(apic->isr);
    apic->ppr = vector >> 4 > (int)(apic->tpr >> 4) ? vector & 0xF0 : apic->tpr;
    if (apic->outstanding || highest(apic->irr) >= 0) {     /* an INTA cycle finds out */
        FIELD(u8, cpu, REQUEST) |= HARD;
        FIELD(u16, FIELD(u8 *, cpu, CPU_ICOUNT_DECR), 2) = 0xFFFF;
    }
    return 1;
}

/* ---- exceptions and interrupts: UC_HOOK_INTR ---------------------------------------------------- */
struct events {
    void *cpu;
    struct machine *machine;
    struct apic *apic;
    int (*acknowledge)(void);                            /* the vector to deliver, or -1 */
    int (*python)(void *uc, u32 number, void *user);     /* an SVM exit: 1 = raise exception_index */
    u32 delivering;                                      /* vector + 1 while one is being delivered */
    u32 is_int_n;                                        /* 1: by INT n, INT3, INTO */
};

/* A delivery faulted: the engine counts 16 bytes a gate, not 8, and has RIP after an INT n. */
static void delivery_faulted(void *env, struct events *user)
{
    u32 n = user->delivering - 1;
    u64 rip = FIELD(u64, env, ENV_RIP);
    u32 base = FIELD(u32, env, ENV_HFLAGS) & CS64 ? 0 : FIELD(u32, env, ENV_CS + 8);

    user->delivering = 0;
    if (FIELD(u32, env, ENV_ERROR_CODE) == n * 16 + 2)
        FIELD(u32, env, ENV_ERROR_CODE) = n * 8 + 2 + !user->is_int_n;      /* EXT: not the program's own */
    if (user->is_int_n) {
        /* INT1, INT3 and INTO are one byte long, where they are not written as INT n */
        int is_short = n < 5 && table.load_code_byte(env, base + rip - 1) != n;
        FIELD(u64, env, ENV_RIP) = rip - (is_short ? 1 : 2);
    }
}

/* WRMSR of 0 to x2APIC's EOI register. 0: it is another MSR, or Python must do it. */
static int x2apic_eoi(void *env, struct events *user)
{
    u64 rip = FIELD(u64, env, ENV_RIP);
    u64 base = FIELD(u32, env, ENV_HFLAGS) & CS64 ? 0 : FIELD(u32, env, ENV_CS + 8);

    if (!user->apic || !user->apic->x2apic || FIELD(u32, env, ENV_RCX) != X2APIC_EOI
        || FIELD(u32, env, ENV_ERROR_CODE) != 1 || FIELD(u32, env, ENV_RAX) || FIELD(u32, env, ENV_RDX))
        return 0;
    if (table.load_code_byte(env, base + rip) != 0x0F || !end_of_interrupt(user->apic, user->cpu))
        return 0;
    FIELD(u64, env, ENV_RIP) = rip + 2;
    return 1;
}

static int is_nx_in_force(void *env)
{
    return FIELD(u32, env, ENV_CR0) & CR0_PG && FIELD(u64, env, ENV_EFER) & EFER_NXE;
}

void event(void *uc, u32 number, struct events *user)
{
    void *env = FIELD(void *, user->cpu, CPU_ENV);

    if (number == EXIT_INIT) {
        FIELD(u8, user->cpu, REQUEST_HIGH) &= ~LEAVE;
        table.emu_stop(uc);         /* only here: in the middle of a block it would make SYSCALL do nothing */
        return;
    }
    if (number == EXIT_INTR) {
        FIELD(u8, user->cpu, REQUEST) &= ~HARD;             /* once, before looking */
        if (user->machine->watch && !is_nx_in_force(env))
            table.flush(user->cpu);                         /* code is looked at again where it runs */
        int vector = user->machine->alarm ? -1 : inta(user->apic);
        if (vector < 0)
            vector = user->acknowledge();
        else if (user->apic->external)
            FIELD(u8, user->cpu, REQUEST) |= HARD;          /* the 8259 comes next */
        if (vector >= 0) {
            user->machine->interrupts++;
            FIELD(u32, env, ENV_EXCEPTION_IS_INT) = 0;
            user->delivering = vector + 1;
            user->is_int_n = 0;
            table.do_hardirq(env, vector, 1);               /* may longjmp out of here */
            user->delivering = 0;
        }
        return;
    }
    if (number >= 0x100) {                                  /* an SVM exit: handled, or to be raised */
        user->delivering = 0;
        if (number == EXIT_MSR && x2apic_eoi(env, user))
            return;
        if (!user->python(uc, number, user))
            return;
        number = FIELD(u32, user->cpu, CPU_EXCEPTION_INDEX);
    } else if (user->delivering)
        delivery_faulted(env, user);
    user->is_int_n = FIELD(u32, env, ENV_EXCEPTION_IS_INT) != 0;
    user->delivering = number + 1;
    table.do_interrupt(user->cpu);                          /* may longjmp out of here */
    user->delivering = 0;
    FIELD(u32, env, ENV_EXCEPTION_IS_INT) = 0;
}

/* ---- SYSCALL and SYSENTER: UC_HOOK_INSN, user = env ------------------------------------------------ */
static void load_flat(void *env, u32 selector, u32 cs_flags)
{
    for (int i = 0; i < 2; i++) {                           /* CS, then SS */
        u8 *segment = (u8 *)env + (i ? ENV_SS : ENV_CS);
        FIELD(u32, segment, 0) = (selector & 0xFFFC) + 8 * i;
        FIELD(u64, segment, 8) = 0;
        FIELD(u32, segment, 16) = 0xFFFFFFFF;
        FIELD(u32, segment, 20) = i ? 0xCF9300 : cs_flags;
    }
}

void syscall_64(void *uc, void *env)
{
    u32 flags, masked;

    (void)uc;
    if (!(FIELD(u64, env, ENV_EFER) & EFER_SCE) || !(FIELD(u32, env, ENV_HFLAGS) & CS64)) {
        table.raise_exception(env, EXCP_UD);                /* does not return */
        return;
    }
    flags = FIELD(u32, env, ENV_EFLAGS) | (FIELD(u32, env, ENV_DF) & 0x400)
          | table.compute_flags(env, FIELD(int, env, ENV_CC_OP));
    masked = flags & ~(FIELD(u32, env, ENV_FMASK) | RF);
    FIELD(u64, env, ENV_RCX) = FIELD(u64, env, ENV_RIP) + 2;
    FIELD(u64, env, ENV_R11) = flags & ~RF;
    FIELD(u64, env, ENV_CC_SRC) = masked & 0x8D5;
    FIELD(u32, env, ENV_CC_OP) = 1;
    FIELD(int, env, ENV_DF) = masked & 0x400 ? -1 : 1;
    FIELD(u64, env, ENV_EFLAGS) = masked & ~0xCD5u;
    load_flat(env, FIELD(u32, env, ENV_STAR + 4), 0xAF9B00);
    FIELD(u32, env, ENV_HFLAGS) &= ~3u;
    FIELD(u64, env, ENV_RIP) = FIELD(u64, env, ENV_LSTAR) - 2;   /* the engine adds 2 */
}

void sysenter(void *uc, void *env)
{
    u32 selector = FIELD(u32, env, ENV_SYSENTER_CS), hflags = FIELD(u32, env, ENV_HFLAGS);
    int is_long = (hflags & LMA) != 0;

    (void)uc;
    if (!(selector & 0xFFFC)) {
        table.raise_exception_err(env, EXCP_GP, 0);
        return;
    }
    FIELD(u64, env, ENV_EFLAGS) &= ~(u64)(IF | RF | 0x20000);
    load_flat(env, selector, is_long ? 0xAF9B00 : 0xCF9B00);
    hflags &= ~(3u | CS64);
    FIELD(u32, env, ENV_HFLAGS) = hflags | 0x30 | (is_long ? CS64 : 0);
    FIELD(u64, env, ENV_RSP) = FIELD(u64, env, ENV_SYSENTER_ESP);
    FIELD(u64, env, ENV_RIP) = FIELD(u64, env, ENV_SYSENTER_EIP) - 2;
}

/* ---- IN and OUT: UC_HOOK_INSN. The engine has left out the check of IOPL and the TSS's bitmap ------ */
struct ports {
    void *env;
    void (*out)(void *uc, u32 port, int size, u32 value, void *user);
    u32 (*in)(void *uc, u32 port, int size, void *user);
};

static void check_io(void *env, u32 port, int size)
{
    u32 hflags = FIELD(u32, env, ENV_HFLAGS), eflags = FIELD(u32, env, ENV_EFLAGS);

    if (hflags & PE && ((hflags & 3) > (eflags >> 12 & 3) || eflags & VM))
        table.check_io[size >> 1](env, port);               /* may longjmp out of here */
}

void port_out(void *uc, u32 port, int size, u32 value, struct ports *user)
{
    check_io(user->env, port, size);
    user->out(uc, port, size, value, user);
}

u32 port_in(void *uc, u32 port, int size, struct ports *user)
{
    check_io(user->env, port, size);
    return user->in(uc, port, size, user);
}

/* ---- MMIO writes: ioeventfds end at an eventfd, the APIC's EOI here, the rest in Python ------------------------------------------- */
struct bell { u64 offset, count, one, fd; };
struct doorbells {                  /* one per area of guest-physical space */
    void (*python)(void *uc, u64 offset, u32 size, u64 value, void *user);
    struct bell *bells;
    u64 length;
    struct apic *apic;              /* its EOI register lies at offset `eoi` of this area; NULL: not here */
    void *cpu;
    u64 eoi;
};

void doorbell_write(void *uc, u64 offset, u32 size, u64 value, struct doorbells *user)
{
    struct bell *bell = user->bells, *end = bell + user->length;

    if (user->apic && offset == user->eoi && size == 4 && user->apic->xapic
        && end_of_interrupt(user->apic, user->cpu))
        return;
    for (; bell < end; bell++)
        if (bell->offset == offset) {
            bell->count++;
            write_one(bell->fd, &bell->one);
            return;
        }
    user->python(uc, offset, size, value, user);
}

/* ---- the deadline, or another thread's poke: on the vCPU's own thread, sival_ptr = its machine ---------------------- */
struct siginfo { int signo, error, code, pad, timer, overrun; struct machine *machine; };
enum { SI_TIMER = -2 };

void on_alarm(int signal, struct siginfo *info, void *context)
{
    struct machine *machine = info->machine;

    (void)signal, (void)context;
    if (!machine || !machine->cpu)
        return;
    FIELD(u8, machine->cpu, REQUEST) |= HARD;
    if (info->code == SI_TIMER) {
        machine->alarm = 1;
        if (!machine->waiting && !(FIELD(u64, FIELD(void *, machine->cpu, CPU_ENV), ENV_EFLAGS) & IF))
            FIELD(u8, machine->cpu, REQUEST_HIGH) |= LEAVE; /* no INTR exit comes: leave to run the timers */
    }
    FIELD(u16, FIELD(u8 *, machine->cpu, CPU_ICOUNT_DECR), 2) = 0xFFFF;
    if (machine->waiting)
        write_one(machine->wake_fd, &machine->one);
}

/* ---- called from Python, on any thread: ask a running CPU for an INTA cycle --------------------------- */
/* The engine has no barrier between "clear the kick" and "read the request", so a kick can get lost. Most are
 * answered within a microsecond; where one is not, after a membarrier the engine has either seen the request
 * or the second kick stays. Returns how many system calls it took, or -1 where there is no membarrier. */
enum { PATIENT_PAUSES = 64 };
long poke(struct machine *machine)
{
    volatile u8 *request = (u8 *)machine->cpu + REQUEST;
    volatile u16 *kick = (u16 *)(FIELD(u8 *, machine->cpu, CPU_ICOUNT_DECR) + 2);
    long result;

    *request = HARD;                                        /* NMI and LEAVE are in another byte */
    *kick = 0xFFFF;
    for (int i = 0; i < PATIENT_PAUSES; i++) {
        if (!(*request & HARD))
            return 0;
        __builtin_ia32_pause();
    }
    __asm__ volatile("syscall" : "=a"(result)
                     : "a"(SYS_MEMBARRIER), "D"(PRIVATE_EXPEDITED), "S"(0), "d"(0) : "rcx", "r11", "memory");
    *kick = 0xFFFF;
    return result ? -1 : 1;
}

/* ---- called from Python ---------------------------------------------------------------------------- */
u64 host_tsc(void)
{
    u32 low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (u64)high << 32 | low;
}

static struct machine *machine_of(void *uc, void *cpu)
{
    struct machine *m = table.machines;
    while (m && m->uc != uc && m->cpu != cpu)
        m = m->next;
    return m;
}


/* ---- memory that other processes write -------------------------------------------------------------- */
/* Nobody tells the engine of such a write. But what was written is executed through a mapping that is new to
 * the TLB, so each entry that allows execution is checked as it is filled: what blocks were made of, line by
 * line, against a copy from when they were made. */
enum { LINE = 64, LINES = 64 };

struct covered { u64 lines, doubtful, epoch; };     /* of one page: a bit a line; when it was checked */
struct ring { u16 *used_idx; u64 seen; };
struct piece { u64 start, size; u8 *host; };                    /* of RAM, by ram_addr */
struct watch {                      /* written by Python before it is seen here, must outlive the machine */
    void *tcg;                      /* the engine's translator */
    struct piece *pieces;           /* the largest one first */
    u64 count;
    u8 *copy;                       /* by ram_addr */
    struct covered *covered;        /* by page of ram_addr */
    u64 pages;
    u64 checks, changes;            /* of pages; those that found something */
    struct ring *rings;             /* where the other processes tell the guest that they have written */
    u64 ring_count, is_known;       /* is_known 0: they may tell it elsewhere, too */
    u64 calls, seen;                /* their interrupts, counted by Python; what was seen of it */
    u64 epoch;                      /* grows with each of these signs; nothing to check without */
};

static u8 *host_page(struct watch *watch, u64 ram_addr)
{
    for (struct piece *piece = watch->pieces; piece < watch->pieces + watch->count; piece++)
        if (ram_addr - piece->start < piece->size)
            return piece->host + (ram_addr - piece->start & -PAGE);
    return 0;
}

static int differs(u8 *line, u8 *copy)
{
    u64 *a = (u64 *)line, *b = (u64 *)copy;

    return ((a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3])
            | (a[4] ^ b[4]) | (a[5] ^ b[5]) | (a[6] ^ b[6]) | (a[7] ^ b[7])) != 0;
}

/* A block was made of [from, to) of one page. A line that older blocks are made of keeps its copy, so that
 * they are found; where the guest itself has changed it meanwhile, the copy is of no use to the new one. */
static void cover(struct watch *watch, u64 from, u64 to)
{
    struct covered *covered = watch->covered + from / PAGE;
    u8 *host = host_page(watch, from), *copy = watch->copy + (from & -PAGE);

    if (!host)
        return;
    for (u64 at = from & -LINE; at < to; at += LINE) {
        u64 bit = 1UL << (at / LINE % LINES), offset = at % PAGE;
        if (!(covered->lines & bit)) {
            covered->lines |= bit;
            for (int i = 0; i < LINE; i += 8)
                FIELD(u64, copy, offset + i) = FIELD(u64, host, offset + i);
        } else if (differs(host + offset, copy + offset))
            covered->doubtful |= bit;
    }
}

/* A page has no blocks, or is about to have its first one. */
static void uncover(struct machine *m, u64 ram_addr)
{
    if (m->watch && ram_addr / PAGE < m->watch->pages)
        m->watch->covered[ram_addr / PAGE].lines = m->watch->covered[ram_addr / PAGE].doubtful = 0;
}

static u64 epoch_of(struct watch *watch)
{
    if (!watch->is_known || watch->calls != watch->seen) {
        watch->seen = watch->calls;
        watch->epoch++;
    }
    for (struct ring *ring = watch->rings; ring < watch->rings + watch->ring_count; ring++)
        if (*(volatile u16 *)ring->used_idx != ring->seen) {
            ring->seen = *(volatile u16 *)ring->used_idx;
            watch->epoch++;
        }
    return watch->epoch;
}

/* The page at `ram_addr`, which is at `host`, is about to be executed. */
static void check_page(struct machine *m, u64 ram_addr, u8 *host)
{
    struct watch *watch = m->watch;
    struct covered *covered = watch->covered + ram_addr / PAGE;
    u8 *copy = watch->copy + ram_addr;

    if (ram_addr / PAGE >= watch->pages || !m->has_code[ram_addr / PAGE])
        return;
    u64 epoch = epoch_of(watch);
    if (covered->epoch == epoch)
        return;
    covered->epoch = epoch;
    u64 stale = covered->doubtful;
    for (u64 left = covered->lines; left; left &= left - 1) {
        u64 line = __builtin_ctzl(left);
        if (differs(host + LINE * line, copy + LINE * line))
            stale |= 1UL << line;
    }
    watch->checks++;
    if (!stale)
        return;
    watch->changes++;
    covered->lines &= ~stale;
    covered->doubtful = 0;
    while (stale) {
        u64 first = __builtin_ctzl(stale), end = first;
        for (; end < LINES && stale >> end & 1; end++)
            stale &= ~(1UL << end);
        table.invalidate(m->uc, ram_addr + LINE * first, ram_addr + LINE * end);
    }
    /* One of them may come next all the same: where the block that runs jumps to it, or where the engine has
     * just found it and looks at its second page. The next block ends at its start, and is looked for anew. */
    FIELD(u16, FIELD(u8 *, m->cpu, CPU_ICOUNT_DECR), 2) = 0xFFFF;
}

/* A block is complete and linked. */
void insert_block(void *tcg, void *block)
{
    u64 start = FIELD(u64, block, TB_PC) % PAGE, end = start + FIELD(u16, block, TB_SIZE);
    u64 first = FIELD(u64, block, TB_PAGES), second = FIELD(u64, block, TB_PAGES + 8);

    for (struct machine *m = table.machines; m; m = m->next)
        if (m->watch && m->watch->tcg == tcg && first != -1UL) {
            cover(m->watch, first + start, first + (end < PAGE ? end : PAGE));
            if (second != -1UL)
                cover(m->watch, second, second + end - PAGE);
        }
    table.insert_block(tcg, block);
}

/* ---- the dirty-page cure: five engine calls redirected through the GOT -------------------- */
enum { PATIENCE = 16 };             /* slow stores to a page without code until it counts as data */

struct entry { u64 read, write, code, paddr, addend, pad[3]; };
struct io { u64 addr, attrs; };
struct fast { u64 mask; struct entry *table; };

static int is_code(struct machine *m, u64 ram_addr)
{
    u64 page = ram_addr >> 12;
    return page >= m->pages || m->has_code[page];
}

static void make_slow(struct entry *entry, struct io *io, u64 count, u64 ram_addr)
{
    for (; count; count--, entry++, io++)
        if (!(entry->write & NOT_PLAIN) && io->addr + (entry->write & -PAGE) == ram_addr)
            entry->write |= NOTDIRTY;
}

/* The first block of a page was translated: stores to it become slow in every mapping. */
void protect_code(void *uc, u64 ram_addr)
{
    struct machine *m = machine_of(uc, 0);
    if (!m)
        return;
    u8 *env = FIELD(u8 *, m->cpu, CPU_ENV);
    ram_addr &= -PAGE;
    uncover(m, ram_addr);
    if (ram_addr >> 12 < m->pages) {
        u8 *has_code = m->has_code + (ram_addr >> 12);
        u8 before = *has_code;
        *has_code = PATIENCE;
        if (before)                                     /* no store became fast since the last time */
            return;
    }
    for (int mode = 0; mode < MMU_MODES; mode++) {
        struct fast *fast = (struct fast *)(env + TLB_FAST + FAST_SIZE * mode);
        u8 *victim = env + TLB_VICTIM + DESC_SIZE * mode;
        make_slow(fast->table, FIELD(struct io *, victim, TABLE_IO), (fast->mask >> 6) + 1, ram_addr);
        make_slow((struct entry *)victim, (struct io *)(victim + VICTIM_IO), VICTIMS, ram_addr);
    }
}

/* A slow store found no block in the page (or dropped the last one).  A page that is rewritten
 * and run in turns stays slow, which is cheaper than a walk over the TLB per turn. */
void unprotect_code(void *uc, u64 ram_addr)
{
    struct machine *m = machine_of(uc, 0);
    if (!m)
        return;
    uncover(m, ram_addr);
    if (ram_addr >> 12 < m->pages && m->has_code[ram_addr >> 12])
        m->has_code[ram_addr >> 12]--;
}

/* The entry that is looked at first for an address, and the ram_addr of its page where it is of that page. */
static struct entry *entry_of(struct machine *m, u64 vaddr, int mode, u64 *ram_addr)
{
    u8 *env = FIELD(u8 *, m->cpu, CPU_ENV);
    struct fast *fast = (struct fast *)(env + TLB_FAST + FAST_SIZE * mode);
    u64 index = vaddr >> 12 & fast->mask >> 6;
    struct io *io = FIELD(struct io *, env, TLB_VICTIM + DESC_SIZE * mode + TABLE_IO) + index;

    *ram_addr = io->addr + (vaddr & -PAGE);
    return fast->table + index;
}

static void make_fast(struct machine *m, u64 vaddr, int mode)
{
    u64 ram_addr;
    struct entry *entry = entry_of(m, vaddr, mode, &ram_addr);

    vaddr &= -PAGE;
    if (entry->write == (vaddr | NOTDIRTY) && !is_code(m, ram_addr))
        entry->write = vaddr;
}

/* A slow store to a page mapped NX is done. */
void set_dirty(void *cpu, u64 vaddr)
{
    struct machine *m = machine_of(0, cpu);
    if (!m) {
        table.set_dirty(cpu, vaddr);
        return;
    }
    for (int mode = 0; mode < MMU_MODES; mode++)
        make_fast(m, vaddr, mode);
}

/* A TLB entry was filled, always "not dirty": fast at once where no code is. */
void set_page(void *cpu, u64 vaddr, u64 paddr, u32 attrs, int prot, int mode, u64 size)
{
    struct machine *m = machine_of(0, cpu);
    table.set_page(cpu, vaddr, paddr, attrs, prot, mode, size);
    if (!m)
        return;
    if (m->watch) {
        u64 ram_addr;
        struct entry *entry = entry_of(m, vaddr, mode, &ram_addr);
        if (entry->code == (vaddr & -PAGE))                 /* RAM that may be executed */
            check_page(m, ram_addr, (u8 *)(entry->code + entry->addend));
    }
    make_fast(m, vaddr, mode);
}

/* A block was translated: protect_code has done what this call was for. */
void reset_dirty_by_vaddr(void *cpu, u64 vaddr, u64 length)
{
    if (!machine_of(0, cpu))
        table.reset_dirty_by_vaddr(cpu, vaddr, length);
}

/* INVLPG of a large page: the engine keeps the blocks of all but the named 4 KiB ready to be run. */
void flush_page(void *cpu, u64 vaddr)
{
    if (machine_of(0, cpu))
        for (int mode = 0; mode < MMU_MODES; mode++) {
            u8 *victim = FIELD(u8 *, cpu, CPU_ENV) + TLB_VICTIM + DESC_SIZE * mode;
            if ((vaddr & -PAGE & FIELD(u64, victim, LARGE_MASK)) == FIELD(u64, victim, LARGE_ADDR)) {
                table.flush(cpu);
                return;
            }
        }
    table.flush_page(cpu, vaddr);
}
