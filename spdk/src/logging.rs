//! What the engine and the module log goes where SPDK logs.
//!
//! Errors and warnings keep their level; information is SPDK's "notice", which is shown by default; debug lines
//! need the log flag `vdo` (`-L vdo`, or `log_set_flag vdo`), like those of any other SPDK component.

use std::ffi::{CString, c_int};

use log::{Level, LevelFilter, Log, Metadata, Record, SetLoggerError};
use once_cell::sync::OnceCell;
use spdk_sys as sys;

struct SpdkLog;

struct Flag(std::cell::UnsafeCell<sys::spdk_log_flag>);

// SAFETY: SPDK links the flag into its list before `main`, and later only writes the one boolean.
unsafe impl Sync for Flag {}

static FLAG: Flag = Flag(std::cell::UnsafeCell::new(sys::spdk_log_flag {
    tailq: sys::spdk_log_flag__bindgen_ty_1 {
        tqe_next: std::ptr::null_mut(),
        tqe_prev: std::ptr::null_mut(),
    },
    name: c"vdo".as_ptr(),
    enabled: false,
}));

fn debugging() -> bool {
    // SAFETY: a boolean that an RPC may be writing; a stale value does no harm.
    unsafe { (&raw const (*FLAG.0.get()).enabled).read_volatile() }
}

impl Log for SpdkLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Info || debugging()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let level = match record.level() {
            Level::Error => sys::SPDK_LOG_ERROR,
            Level::Warn => sys::SPDK_LOG_WARN,
            Level::Info => sys::SPDK_LOG_NOTICE,
            Level::Debug | Level::Trace => sys::SPDK_LOG_DEBUG,
        };
        let clean = |text: &str| CString::new(text.replace('\0', " ")).unwrap_or_default();
        let message = clean(&record.args().to_string());
        let file = clean(record.file().unwrap_or("vdo"));
        let module = clean(record.module_path().unwrap_or("vdo"));
        let line = record.line().map_or(0, |line| line as c_int);
        // SAFETY: the format takes one string, and all strings outlive the call.
        unsafe {
            sys::spdk_log(
                level,
                file.as_ptr(),
                line,
                module.as_ptr(),
                c"%s\n".as_ptr(),
                message.as_ptr(),
            );
        }
    }

    fn flush(&self) {}
}

/// Makes SPDK's log the log of this program, the first time it is called.
///
/// # Errors
/// When the program has another log already.
pub fn install() -> Result<(), SetLoggerError> {
    static INSTALLED: OnceCell<()> = OnceCell::new();
    let set = || log::set_logger(&SpdkLog).map(|()| log::set_max_level(LevelFilter::Debug));
    INSTALLED.get_or_try_init(set).copied()
}

/// Enters the log flag `vdo`. Called before `main`.
pub(crate) fn register_flag() {
    // SAFETY: the flag is static, and entered once.
    unsafe { sys::spdk_log_register_flag(c"vdo".as_ptr(), FLAG.0.get()) }
}
