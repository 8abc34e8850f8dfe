//! What the engine says in its log while a seed runs: errors it survives, but which should never be, and warnings.

use std::any::Any;
use std::cell::RefCell;
use std::sync::Once;

use log::{Level, LevelFilter, Log, Metadata, Record};
use vdo::seam::VolumeEvent;

thread_local! {
    static LINES: RefCell<Vec<(Level, String)>> = const { RefCell::new(Vec::new()) };
}

struct Listener;

impl Log for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Warn
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let line = (record.level(), record.args().to_string());
            LINES.with_borrow_mut(|lines| lines.push(line));
        }
    }

    fn flush(&self) {}
}

/// Has what goes wrong with a volume in the log, as a host would.
#[derive(Debug)]
pub struct Host;

impl vdo::seam::Listener for Host {
    fn told(&self, event: &VolumeEvent) {
        match event {
            VolumeEvent::ReadOnly {
                reason,
                was_found: false,
            } => log::error!("the volume turns read-only: {reason}"),
            VolumeEvent::RecoveryEnded(Err(why)) | VolumeEvent::RebuildEnded(Err(why)) => {
                log::warn!("the volume could not be brought back: {why}");
            }
            _ => {}
        }
    }
}

/// Begins to listen, for this process.
pub fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if log::set_logger(&Listener).is_ok() {
            log::set_max_level(LevelFilter::Warn);
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
    let lines = LINES.with_borrow_mut(std::mem::take).into_iter();
    let errors = lines.filter(|(level, _)| *level == Level::Error);
    errors.map(|(_, line)| line).collect()
}

/// The errors and warnings logged on this thread since the last call.
pub fn take_all() -> Vec<String> {
    let lines = LINES.with_borrow_mut(std::mem::take).into_iter();
    lines.map(|(_, line)| line).collect()
}
