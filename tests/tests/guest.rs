//! Guests do what they are told, and say what happened when they do not.

use std::time::{Duration, Instant};

use vdo_tests::guest::{Disk, Guest, GuestError, Kit, Machine, Recipe};
use vdo_tests::tools::skipped;

const SHORT: Duration = Duration::from_secs(60);

/// One guest for all, because booting is what takes time.
#[test]
fn a_guest_runs_scripts_on_a_linux_kernel_and_says_how_they_ended() {
    let test = "a_guest_runs_scripts_on_a_linux_kernel_and_says_how_they_ended";
    let kit = match Kit::gather(&Recipe::plain()) {
        Ok(kit) => kit,
        Err(why) => return skipped(test, why),
    };
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image");
    std::fs::write(&image, vec![0; 1 << 20]).unwrap();
    let machine = Machine {
        disks: vec![Disk {
            image: image.clone(),
            sector: 4096,
        }],
        ..Machine::default()
    };
    let begun = Instant::now();
    let mut guest = Guest::boot(&kit, machine).unwrap_or_else(|error| panic!("{error}"));
    println!("booted in {:?}", begun.elapsed());

    let answer = guest
        .run("uname -r; echo wrong >&2; exit 3", SHORT)
        .unwrap();
    assert_eq!(answer.status, 3);
    assert_eq!(answer.output, format!("{}\nwrong\n", kit.release));
    assert!(guest.console().contains("wrong"));

    let sector = "cat /sys/block/vda/queue/logical_block_size";
    assert_eq!(guest.run(sector, SHORT).unwrap().output, "4096\n");
    let write =
        "printf 'from the guest' | dd of=/dev/vda bs=4096 seek=3 conv=notrunc,fsync && sync";
    let answer = guest.run(write, SHORT).unwrap();
    assert_eq!(answer.status, 0, "{}", answer.output);
    assert!(std::fs::read(&image).unwrap()[3 * 4096..].starts_with(b"from the guest"));

    let many = "seq 20000";
    let counted: String = (1..=20000).map(|number| format!("{number}\n")).collect();
    assert_eq!(guest.run(many, SHORT).unwrap().output, counted);

    // The guest reaches a server on this machine's loopback interface.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        use std::io::Write;
        listener
            .accept()
            .unwrap()
            .0
            .write_all(b"hello guest")
            .unwrap();
    });
    let ask = format!("nc 10.0.2.2 {port}");
    assert_eq!(guest.run(&ask, SHORT).unwrap().output, "hello guest");
    server.join().unwrap();
    guest.power_off().unwrap_or_else(|error| panic!("{error}"));
}

/// One guest for both again: the script that hangs ends in a crash.
#[test]
fn a_guest_that_hangs_or_crashes_is_given_up_with_the_last_words_of_its_console() {
    let test = "a_guest_that_hangs_or_crashes_is_given_up_with_the_last_words_of_its_console";
    let kit = match Kit::gather(&Recipe::plain()) {
        Ok(kit) => kit,
        Err(why) => return skipped(test, why),
    };
    let mut guest = Guest::boot(&kit, Machine::default()).unwrap_or_else(|error| panic!("{error}"));
    let script = "echo one; echo two\nsleep 6; echo c >/proc/sysrq-trigger";
    match guest.run(script, Duration::from_secs(3)) {
        Err(GuestError::Hung { what, console, .. }) => {
            assert_eq!(what, "echo one; echo two");
            assert!(console.ends_with("one\ntwo"), "{console}");
        }
        other => panic!("{other:?}"),
    }
    match guest.run("true", SHORT) {
        Err(GuestError::Ended { console, .. }) => {
            assert!(console.contains("Kernel panic"), "{console}");
        }
        other => panic!("{other:?}"),
    }
}
