//! The program at a terminal: a thread asks the target, this one takes keys and draws.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use signal_hook::consts::{SIGHUP, SIGTERM};

use super::draw::draw;
use super::model::{Action, Model, Panel};
use super::{Arguments, snapshot};
use crate::target::{Sample, Target};

/// How often keys are looked for while nothing else happens.
const LOOK: Duration = Duration::from_millis(100);

/// An answer of the target, and when it came.
type Answered = (Instant, Result<Sample, String>);

/// Asks the target again and again, on a thread of its own that ends with the program.
fn keep_asking(socket: &Path, interval: Duration, patience: Duration) -> Receiver<Answered> {
    let (sender, answers) = mpsc::sync_channel(1);
    let mut target = Target::new(socket);
    std::thread::spawn(move || {
        loop {
            let begun = Instant::now();
            let answer = target.sample(patience);
            let answer = answer.map_err(|error| error.message);
            if sender.send((Instant::now(), answer)).is_err() {
                return;
            }
            std::thread::sleep(interval.saturating_sub(begun.elapsed()));
        }
    });
    answers
}

/// Shows the target until the person at the terminal, or a signal, ends it.
///
/// # Errors
/// When the terminal cannot be used.
pub fn run(arguments: &Arguments, mut model: Model) -> io::Result<()> {
    let ended = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&ended))?;
    }
    let answers = keep_asking(
        &arguments.socket,
        arguments.interval(),
        arguments.patience(),
    );
    let mut terminal = ratatui::try_init()?;
    let result = attend(&mut terminal, arguments, &mut model, &answers, &ended);
    ratatui::try_restore()?;
    result
}

fn attend(
    terminal: &mut DefaultTerminal,
    arguments: &Arguments,
    model: &mut Model,
    answers: &Receiver<Answered>,
    ended: &AtomicBool,
) -> io::Result<()> {
    let begun = Instant::now();
    let mut changed = true;
    while !ended.load(Ordering::Relaxed) {
        if changed {
            terminal.draw(|frame| draw(frame, &model.screen()))?;
        }
        changed = event::poll(LOOK)?;
        if changed && let Some(action) = action(&event::read()?) {
            model.act(action);
            match action {
                Action::Quit => return Ok(()),
                Action::Snapshot => model.say(match snapshot::write(model, &arguments.snapshots) {
                    Ok(path) => format!("written to {}", path.display()),
                    Err(error) => format!("cannot write a snapshot: {error}"),
                }),
                _ => {}
            }
        }
        while let Ok((at, answer)) = answers.try_recv() {
            model.take(at.duration_since(begun).as_secs_f64(), answer);
            changed = true;
        }
    }
    Ok(())
}

/// What a key asks for.
fn action(event: &Event) -> Option<Action> {
    let Event::Key(KeyEvent {
        code,
        modifiers,
        kind: KeyEventKind::Press | KeyEventKind::Repeat,
        ..
    }) = event
    else {
        return None;
    };
    if modifiers.contains(KeyModifiers::CONTROL) {
        return (*code == KeyCode::Char('c')).then_some(Action::Quit);
    }
    Some(match code {
        KeyCode::Char('q') => Action::Quit,
        KeyCode::Char('h' | '?') => Action::Help,
        KeyCode::Char('p' | ' ') => Action::Pause,
        KeyCode::Char('s') => Action::Sort,
        KeyCode::Char('r') => Action::Reverse,
        KeyCode::Char('c') => Action::Counts,
        KeyCode::Char('w') => Action::Snapshot,
        KeyCode::Char('j') | KeyCode::Down => Action::Next,
        KeyCode::Char('k') | KeyCode::Up => Action::Previous,
        KeyCode::Tab | KeyCode::Right => Action::NextPanel,
        KeyCode::BackTab | KeyCode::Left => Action::PreviousPanel,
        KeyCode::Char('1') => Action::Show(Panel::Volume),
        KeyCode::Char('2') => Action::Show(Panel::Paths),
        KeyCode::Char('3') => Action::Show(Panel::Zones),
        _ => return None,
    })
}
