//! What the engine complains of in its log while a seed runs: errors it survives, but which should never be.

use std::any::Any;
use std::cell::RefCell;
use std::sync::Once;

use log::{Level, LevelFilter, Log, Metadata, Record};

thread_local! {
    static LINES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

struct Listener;

impl Log for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Error
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            LINES.with_borrow_mut(|lines| lines.push(record.args().to_string()));
        }
    }

    fn flush(&self) {}
}

/// Begins to listen, for this process.
pub fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if log::set_logger(&Listener).is_ok() {
            log::set_max_level(LevelFilter::Error);
        }
    });
}

/// What a run that panicked has to say: the panic's words, and the errors logged on this thread.
pub fn of_panic(panic: &(dyn Any + Send)) -> String {
    let what = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without words");
    let log = take().join("\n  ");
    format!("{what}\nthe log said:\n  {log}")
}

/// The errors logged on this thread since the last call.
pub fn take() -> Vec<String> {
    LINES.with_borrow_mut(std::mem::take)
}
