//! What a reactor promises: messages run in order on its thread, pollers run until they say otherwise,
//! sleep costs nothing and ends for every reason it should.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::*;

fn one() -> Reactors {
    Reactors::start(&CpuMask::single(0)).unwrap()
}

/// Waits until the reactor is asleep, or about to be.
fn wait_for_sleep(handle: &ReactorHandle) {
    let start = Instant::now();
    while !handle.waker().is_armed() {
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "the reactor does not sleep"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn messages_of_one_sender_run_in_order_on_the_reactors_thread() {
    let reactors = one();
    let (sender, receiver) = mpsc::channel();
    for number in 0..100 {
        let sender = sender.clone();
        reactors.first().send(move |_| {
            sender
                .send((number, std::thread::current().name().map(str::to_owned)))
                .unwrap();
        });
    }
    for number in 0..100 {
        assert_eq!(
            receiver.recv().unwrap(),
            (number, Some("reactor_0".to_owned()))
        );
    }
}

#[test]
fn a_poller_is_polled_until_it_finishes_and_dropped_on_its_thread() {
    struct Counter(u32, mpsc::Sender<(u32, Option<String>)>);
    impl Poller for Counter {
        fn poll(&mut self, _: &mut ReactorCtx) -> Activity {
            self.0 += 1;
            if self.0 == 5 {
                Activity::Finished
            } else {
                Activity::Busy
            }
        }
    }
    impl Drop for Counter {
        fn drop(&mut self) {
            let name = std::thread::current().name().map(str::to_owned);
            self.1.send((self.0, name)).unwrap();
        }
    }
    let reactors = one();
    let (sender, receiver) = mpsc::channel();
    reactors.first().send(move |reactor| {
        reactor.add_poller("counter", Counter(0, sender));
    });
    assert_eq!(receiver.recv().unwrap(), (5, Some("reactor_0".to_owned())));
    assert_eq!(reactors.first().pollers(), []);
}

#[test]
fn pollers_may_remove_themselves_their_elders_and_their_juniors_while_polled() {
    let handle = ReactorHandle::detached().unwrap();
    let mut reactor = ReactorCtx::new(handle);
    let log = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let ids = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    for number in 0..6 {
        let (log, all) = (std::rc::Rc::clone(&log), std::rc::Rc::clone(&ids));
        let id = reactor.add_poller("p", move |reactor: &mut ReactorCtx| {
            log.borrow_mut().push(number);
            let all: Vec<PollerId> = all.borrow().clone();
            if number == 2 {
                assert!(reactor.remove_poller(all[0]));
                assert!(reactor.remove_poller(all[2]));
                assert!(reactor.remove_poller(all[4]));
                assert!(!reactor.remove_poller(all[4]));
            }
            Activity::Idle
        });
        ids.borrow_mut().push(id);
    }
    assert!(!reactor.poll_all(Nanos(0)));
    assert_eq!(*log.borrow(), [0, 1, 2, 3, 5]);
    log.borrow_mut().clear();
    reactor.poll_all(Nanos(0));
    assert_eq!(*log.borrow(), [1, 3, 5]);
}

use vdo::seam::Nanos;

#[test]
fn an_idle_reactor_sleeps_and_a_message_wakes_it_at_once() {
    let reactors = one();
    wait_for_sleep(reactors.first());
    let idle = reactors.first().stats();
    std::thread::sleep(Duration::from_millis(100));
    let later = reactors.first().stats();
    assert!(
        later.sleeps - idle.sleeps <= 1,
        "it woke {} times for nothing",
        later.sleeps - idle.sleeps
    );
    let start = Instant::now();
    reactors.first().call(|_| ()).unwrap();
    assert!(start.elapsed() < Duration::from_secs(2));
    assert!(reactors.first().stats().idle_ns > 50_000_000);
}

#[test]
fn a_wake_up_after_publishing_work_is_never_lost() {
    let reactors = one();
    let work = Arc::new(AtomicUsize::new(0));
    let done = Arc::new(AtomicUsize::new(0));
    let (todo, finished) = (Arc::clone(&work), Arc::clone(&done));
    reactors.first().send(move |reactor| {
        reactor.add_poller("worker", move |_: &mut ReactorCtx| {
            let there = todo.load(Ordering::Acquire);
            let before = finished.swap(there, Ordering::Release);
            Activity::from(before != there)
        });
    });
    for round in 1..=2000 {
        work.store(round, Ordering::Release);
        reactors.first().waker().wake();
        let start = Instant::now();
        while done.load(Ordering::Acquire) != round {
            assert!(
                start.elapsed() < Duration::from_secs(5),
                "round {round} was slept through"
            );
            std::hint::spin_loop();
        }
        if round % 16 == 0 {
            // Land around the moment at which it goes to sleep.
            std::thread::sleep(Duration::from_micros(15 + (round as u64 % 7) * 3));
        }
    }
}

#[test]
fn a_timed_poller_runs_once_a_period_also_when_the_reactor_sleeps() {
    let reactors = one();
    let runs = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&runs);
    reactors.first().send(move |reactor| {
        reactor.add_timed_poller(
            "tick",
            Duration::from_millis(10),
            move |_: &mut ReactorCtx| {
                count.fetch_add(1, Ordering::Relaxed);
                Activity::Idle
            },
        );
    });
    std::thread::sleep(Duration::from_millis(500));
    let runs = runs.load(Ordering::Relaxed);
    assert!(
        (5..=50).contains(&runs),
        "{runs} runs in 500 ms with a period of 10 ms"
    );
    assert!(reactors.first().stats().sleeps >= 5);
}

#[test]
fn a_poller_that_asks_for_a_deadline_is_polled_by_then() {
    let reactors = one();
    let (sender, receiver) = mpsc::channel();
    reactors.first().send(move |reactor| {
        let due = Nanos(clock().0 + 50_000_000);
        reactor.add_poller("deadline", move |reactor: &mut ReactorCtx| {
            if reactor.now() < due {
                poll_by(due);
                return Activity::Idle;
            }
            sender.send(clock().0 - due.0).unwrap();
            Activity::Finished
        });
    });
    let late = receiver
        .recv_timeout(Duration::from_secs(10))
        .expect("the deadline was slept through");
    assert!(late < 2_000_000_000, "polled {late} ns late");
    assert!(
        reactors.first().stats().sleeps > 0,
        "it did not sleep meanwhile"
    );
}

#[test]
fn data_on_a_watched_socket_wakes_a_sleeping_reactor_and_makes_it_readable() {
    let reactors = one();
    let (mut near, far) = UnixStream::pair().unwrap();
    far.set_nonblocking(true).unwrap();
    let (sender, receiver) = mpsc::channel();
    reactors.first().send(move |reactor| {
        let mut far = reactor.handle().watch(far).unwrap();
        reactor.add_poller("socket", move |_: &mut ReactorCtx| {
            if !far.is_readable() {
                return Activity::Idle;
            }
            let mut bytes = [0; 16];
            match io::Read::read(far.io_mut(), &mut bytes) {
                Ok(0) => Activity::Finished,
                Ok(count) => {
                    sender.send(bytes[..count].to_vec()).unwrap();
                    Activity::Busy
                }
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    far.clear_readable();
                    Activity::Idle
                }
            }
        });
    });
    for _ in 0..3 {
        wait_for_sleep(reactors.first());
        near.write_all(b"hello").unwrap();
        assert_eq!(
            receiver.recv_timeout(Duration::from_secs(10)).unwrap(),
            b"hello"
        );
    }
    drop(near);
    let start = Instant::now();
    while !reactors.first().pollers().is_empty() {
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "the end of the stream went unnoticed"
        );
    }
}

#[test]
fn stopping_runs_queued_messages_drops_pollers_and_tells_later_callers() {
    let reactors = one();
    let ran = Arc::new(AtomicBool::new(false));
    let kept = Arc::new(());
    let (flag, held) = (Arc::clone(&ran), Arc::clone(&kept));
    reactors.first().send(move |reactor| {
        reactor.add_poller("holder", move |_: &mut ReactorCtx| {
            let _ = &held;
            Activity::Idle
        });
        std::thread::sleep(Duration::from_millis(50));
    });
    reactors
        .first()
        .send(move |_| flag.store(true, Ordering::Relaxed));
    reactors.stop();
    assert!(ran.load(Ordering::Relaxed));
    assert_eq!(Arc::strong_count(&kept), 1);
    assert!(matches!(
        reactors.first().call(|_| ()),
        Err(ReactorError::Stopped { core: 0 })
    ));
}

#[test]
fn a_reactor_may_not_wait_for_a_reactor() {
    let reactors = one();
    let handle = reactors.first().clone();
    let result = reactors.first().call(move |_| handle.call(|_| ())).unwrap();
    assert!(matches!(result, Err(ReactorError::WouldDeadlock)));
}

#[test]
fn a_mask_with_a_missing_core_is_refused_by_name() {
    let error = Reactors::start(&"[1000]".parse().unwrap()).unwrap_err();
    assert!(
        matches!(error, ReactorError::NoSuchCore { core: 1000, .. }),
        "{error}"
    );
}
