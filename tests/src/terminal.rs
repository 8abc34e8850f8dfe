//! A program at a terminal of its own: what is seen there, and keys pressed.

use std::io::{Read, Write};
use std::num::NonZero;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};
use vt100::Parser;

/// How long something may take to be seen.
const PATIENCE: Duration = Duration::from_secs(60);

/// A terminal with a program in it, which is ended when this is dropped.
pub struct Terminal {
    child: Box<dyn Child + Send + Sync>,
    keys: Box<dyn Write + Send>,
    screen: Arc<Mutex<Parser>>,
    terminal: Box<dyn MasterPty + Send>,
}

impl std::fmt::Debug for Terminal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Terminal({:?})", self.child.process_id())
    }
}

fn cells(number: u16) -> NonZero<u16> {
    NonZero::new(number).expect("a terminal has rows and columns")
}

fn size(rows: u16, columns: u16) -> PtySize {
    PtySize {
        rows,
        cols: columns,
        ..PtySize::default()
    }
}

fn lock(screen: &Mutex<Parser>) -> MutexGuard<'_, Parser> {
    screen.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Terminal {
    /// Starts a program, given as its path and its arguments, in a terminal of this size.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(command: &[&str], (rows, columns): (u16, u16)) -> Terminal {
        let pair = native_pty_system()
            .openpty(size(rows, columns))
            .expect("the system has a terminal to give");
        let mut builder = CommandBuilder::new(command[0]);
        builder.args(&command[1..]);
        builder.env("TERM", "xterm-256color");
        let child = pair.slave.spawn_command(builder);
        let child = child.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let screen = Arc::new(Mutex::new(Parser::new(cells(rows), cells(columns), 0)));
        let reader = pair.master.try_clone_reader();
        let mut output = reader.expect("a terminal can be read");
        let seen = Arc::clone(&screen);
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut piece) {
                lock(&seen).process(&piece[..count]);
            }
        });
        let keys = pair.master.take_writer();
        Terminal {
            child,
            keys: keys.expect("a terminal can be written to once"),
            screen,
            terminal: pair.master,
        }
    }

    /// Presses keys.
    ///
    /// # Panics
    /// When the terminal is closed.
    pub fn press(&mut self, keys: &str) {
        let pressed = self.keys.write_all(keys.as_bytes());
        pressed.expect("the terminal is open");
    }

    /// Makes the terminal larger or smaller.
    ///
    /// # Panics
    /// When it cannot be.
    pub fn resize(&mut self, rows: u16, columns: u16) {
        let screen = &mut *lock(&self.screen);
        screen.screen_mut().set_size(cells(rows), cells(columns));
        let resized = self.terminal.resize(size(rows, columns));
        resized.expect("a terminal can be resized");
    }

    /// What is seen.
    pub fn screen(&self) -> vt100::Screen {
        lock(&self.screen).screen().clone()
    }

    /// What is seen, as text.
    pub fn text(&self) -> String {
        self.screen().contents()
    }

    /// Waits until what is seen is so, and returns it.
    ///
    /// # Panics
    /// When that takes too long.
    pub fn until(&self, what: &str, is_so: impl Fn(&str) -> bool) -> String {
        let begun = Instant::now();
        loop {
            let seen = self.text();
            if is_so(&seen) {
                return seen;
            }
            assert!(begun.elapsed() < PATIENCE, "not {what}:\n{seen}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until a text is seen.
    ///
    /// # Panics
    /// When that takes too long.
    pub fn shows(&self, text: &str) -> String {
        self.until(text, |seen| seen.contains(text))
    }

    /// Waits for the program's end, and says whether that was a good one.
    ///
    /// # Panics
    /// When it does not end.
    pub fn ended(&mut self) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            let status = self.child.try_wait();
            if let Some(status) = status.expect("the child is ours to wait for") {
                return status.success();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("it does not end:\n{}", self.text());
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
