//! Seccomp: which system calls the program makes. All others fail with `EPERM`.
//!
//! The list is what the standard library, the C library and this program use: files, memory, threads, time, waiting, UNIX sockets and
//! io_uring. What io_uring does on the program's behalf is not filtered here, but by landlock; it cannot run programs.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule,
};

use super::{Extent, SandboxError};

/// Calls that may be made with any arguments.
const ALLOWED: &[libc::c_long] = &[
    // Files.
    libc::SYS_openat,
    libc::SYS_close,
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_getcwd,
    libc::SYS_fcntl,
    libc::SYS_flock,
    libc::SYS_ioctl,
    libc::SYS_fallocate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_unlinkat,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchownat,
    // Memory.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    // Threads, and their end.
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_setaffinity,
    libc::SYS_getcpu,
    libc::SYS_prlimit64,
    libc::SYS_getrusage,
    libc::SYS_sysinfo,
    libc::SYS_uname,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // Signals.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    // Time and chance.
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
    // Waiting.
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_ppoll,
    libc::SYS_eventfd2,
    libc::SYS_pipe2,
    // Sockets, once made.
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_shutdown,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    // The base devices.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
];

/// Calls that only this architecture has, for the same things.
#[cfg(target_arch = "x86_64")]
const ALLOWED_HERE: &[libc::c_long] = &[
    libc::SYS_open,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_unlink,
    libc::SYS_chmod,
    libc::SYS_poll,
    libc::SYS_epoll_wait,
    libc::SYS_time,
];

/// Calls that only this architecture has, for the same things.
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_HERE: &[libc::c_long] = &[];

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Whether the low half of an argument, or some bits of it, are a value.
fn argument(index: u8, compare: SeccompCmpOp, value: u64) -> Result<SeccompCondition, Error> {
    let condition = SeccompCondition::new(index, SeccompCmpArgLen::Dword, compare, value);
    condition.map_err(Error::from)
}

fn rule(condition: SeccompCondition) -> Result<Vec<SeccompRule>, Error> {
    Ok(vec![SeccompRule::new(vec![condition])?])
}

/// Every call that may be made, and with which arguments.
fn rules() -> Result<Rules, Error> {
    use SeccompCmpOp::{Eq, MaskedEq};
    let plain = ALLOWED.iter().chain(ALLOWED_HERE);
    let mut rules: Rules = plain.map(|&call| (call, Vec::new())).collect();
    let unix = libc::AF_UNIX as u64;
    rules.insert(libc::SYS_socket, rule(argument(0, Eq, unix)?)?);
    rules.insert(libc::SYS_socketpair, rule(argument(0, Eq, unix)?)?);
    // Memory that can be written is never run, nor the other way round.
    let runs = libc::PROT_EXEC as u64;
    rules.insert(libc::SYS_mmap, rule(argument(2, MaskedEq(runs), 0)?)?);
    rules.insert(libc::SYS_mprotect, rule(argument(2, MaskedEq(runs), 0)?)?);
    // Threads, and no processes.
    let thread = libc::CLONE_THREAD as u64;
    rules.insert(
        libc::SYS_clone,
        rule(argument(0, MaskedEq(thread), thread)?)?,
    );
    // Its arguments are out of reach: refused below, in a way that makes the C library take the other.
    rules.insert(libc::SYS_clone3, Vec::new());
    // Signals to itself.
    let own = u64::from(std::process::id());
    rules.insert(libc::SYS_kill, rule(argument(0, Eq, own)?)?);
    rules.insert(libc::SYS_tgkill, rule(argument(0, Eq, own)?)?);
    // Names of threads and of memory.
    let names = [libc::PR_SET_NAME as u64, libc::PR_SET_VMA as u64];
    let named =
        names.map(|name| SeccompRule::new(vec![argument(0, Eq, name)?]).map_err(Error::from));
    rules.insert(
        libc::SYS_prctl,
        named.into_iter().collect::<Result<_, _>>()?,
    );
    Ok(rules)
}

/// The filters, in the order they are put in place: the last allows no more of them.
fn filters() -> Result<[BpfProgram; 2], Error> {
    let errno = |errno: i32| SeccompAction::Errno(errno as u32);
    let here = std::env::consts::ARCH.try_into()?;
    let allowed = SeccompFilter::new(rules()?, errno(libc::EPERM), SeccompAction::Allow, here)?;
    let unknown = Rules::from([(libc::SYS_clone3, Vec::new())]);
    let unknown = SeccompFilter::new(unknown, SeccompAction::Allow, errno(libc::ENOSYS), here)?;
    Ok([unknown.try_into()?, allowed.try_into()?])
}

/// Filters the calls of the calling thread, and of those it starts.
pub(super) fn enter() -> Result<Extent, SandboxError> {
    for filter in filters()? {
        match seccompiler::apply_filter(&filter) {
            Ok(()) => {}
            // A kernel without seccomp, or without filters.
            Err(Error::Prctl(_) | Error::Seccomp(_)) => return Ok(Extent::Nothing),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Extent::Whole)
}
