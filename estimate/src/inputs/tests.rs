//! What is found is what is there, each thing once, and what is wrong is told.

use std::fs::{self, File};
use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;

fn complaints() -> Complaints {
    Complaints::new(|_| {})
}

/// All batches, and what was found.
fn all(inputs: &mut Inputs, complaints: &Complaints) -> Vec<Batch> {
    std::iter::from_fn(|| inputs.next_batch(complaints)).collect()
}

fn blocks(batches: &[Batch]) -> (usize, u64) {
    let data = batches.iter().map(Batch::blocks).sum();
    (data, batches.iter().map(|batch| batch.holes).sum())
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

#[test]
fn each_file_is_read_once_however_it_is_met() {
    let folder = folder();
    let path = |name: &str| folder.path().join(name);
    fs::create_dir(path("a")).expect("a folder");
    fs::write(path("a/one"), [1; 5000]).expect("a file");
    fs::hard_link(path("a/one"), path("a/other name")).expect("a link");
    fs::write(path("a/two"), [2; 4096]).expect("a file");
    fs::write(path("a/none"), []).expect("a file");
    symlink(path("a/two"), path("a/three")).expect("a link");
    symlink(path("a"), path("again")).expect("a link");
    let complaints = complaints();
    for given in [
        vec![path("a")],
        vec![path("a"), path("a/two"), path("a/three"), path("a")],
        vec![path("a/two"), path("a")],
        vec![path(""), path("a")],
        vec![path("again"), path("a/one")],
    ] {
        let mut inputs = Inputs::new(&given, false);
        let batches = all(&mut inputs, &complaints);
        assert_eq!(blocks(&batches), (3, 0), "{given:?}");
        let found = inputs.found();
        assert_eq!((found.files, found.bytes), (3, 9096), "{given:?}");
    }
    assert_eq!(complaints.all().0, 0);
}

#[test]
fn batches_are_numbered_and_no_larger_than_they_may_be() {
    let folder = folder();
    for number in 0..3 {
        let bytes = vec![1; 4096 * 300 + 1];
        fs::write(folder.path().join(number.to_string()), bytes).expect("a file");
    }
    let mut inputs = Inputs::new(&[folder.path().to_owned()], false);
    let batches = all(&mut inputs, &complaints());
    assert_eq!(blocks(&batches), (903, 0));
    assert_eq!(batches.len(), 4);
    for (number, batch) in (0..).zip(&batches) {
        assert_eq!(batch.number, number);
        assert!(batch.blocks() <= BATCH_BLOCKS);
    }
}

#[test]
fn holes_are_counted_and_not_read() {
    use std::os::unix::fs::FileExt;

    let folder = folder();
    let path = folder.path().join("image");
    let file = fs::File::create(&path).expect("a file");
    file.set_len((1 << 40) + 100).expect("a size");
    for block in [3, 4, 1000] {
        file.write_all_at(&[1; 4096], block * 4096).expect("data");
    }
    drop(file);
    let mut inputs = Inputs::new(&[path], false);
    let batches = all(&mut inputs, &complaints());
    let (data, holes) = blocks(&batches);
    assert_eq!(data as u64 + holes, (1 << 28) + 1);
    assert!((3..1000).contains(&data), "{data}");
    assert!(inputs.found().allocated_bytes < 1 << 20);
}

#[test]
fn what_cannot_be_read_is_told_once_and_the_rest_goes_on() {
    let folder = folder();
    let path = |name: &str| folder.path().join(name);
    for name in ["1", "2", "3"] {
        fs::write(path(name), vec![7; 5000 * 4096]).expect("a file");
    }
    let complaints = complaints();
    let given = [path("not there"), "/dev/null".into(), path("")];
    let mut inputs = Inputs::new(&given, false);
    let batches = all(&mut inputs, &complaints);
    assert_eq!(complaints.all().0, 2);
    // One is gone before it is opened, another is cut.
    fs::remove_file(path("1")).expect("it is there");
    let file = File::options().write(true).open(path("2"));
    file.and_then(|file| file.set_len(8192 + 5))
        .expect("it is there");
    let mut room = vec![1; BATCH_BLOCKS * 4096];
    let (mut read, mut other) = (0, 0);
    for piece in batches.iter().flat_map(|batch| &batch.pieces) {
        let room = &mut room[..piece.blocks * 4096];
        read += piece.read(room, &complaints);
        other += room.iter().filter(|byte| **byte == 7).count();
    }
    assert_eq!(read, 3 + 5000);
    assert_eq!(other, 8192 + 5 + 5000 * 4096);
    let (count, told) = complaints.all();
    assert_eq!(count, 4);
    let told: Vec<_> = told.iter().map(ToString::to_string).collect();
    for (number, part) in [
        "not there: No such file",
        "/dev/null: is no file, folder or block device",
        "1: No such file",
        "2: ended at byte 8197 while it was read; it had 20480000 bytes",
    ]
    .iter()
    .enumerate()
    {
        assert!(told[number].contains(part), "{told:?}");
    }
}
