//! The lists against a map, with as little room as can be.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn name(number: u32) -> RecordName {
    let mut name = [0; 16];
    name[..4].copy_from_slice(&number.to_le_bytes());
    RecordName(name)
}

/// For each key, values in the order of their entries, with the names of all but the first.
type ModelList = BTreeMap<u32, Vec<(u32, Option<RecordName>)>>;

/// What the lists should hold.
#[derive(Clone, Debug, Default)]
struct Model {
    lists: Vec<ModelList>,
}

impl Model {
    fn check(&self, lists: &DeltaLists) {
        let (mut records, mut collisions, mut used, mut end) = (0, 0, 0, 0);
        for (index, expected) in self.lists.iter().enumerate() {
            let list = lists.list(index);
            assert!(list.start >= end, "list {index} overlaps the one before it");
            end = list.start + u64::from(list.size);
            used += u64::from(list.size);
            let mut found = ModelList::new();
            for entry in list.entries() {
                let entry = entry.expect("a whole list");
                let name = entry.is_collision.then(|| list.name(&entry));
                collisions += u64::from(entry.is_collision);
                records += 1;
                found
                    .entry(entry.key)
                    .or_default()
                    .push((list.value(&entry), name));
            }
            assert_eq!(&found, expected, "list {index}");
        }
        assert!(end <= lists.memory_bits());
        assert_eq!(
            (lists.records, lists.collisions, lists.used_bits()),
            (records, collisions, used)
        );
    }
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Insert,
    Remove,
    SetValue,
}

fn ops() -> impl Strategy<Value = Vec<(Op, usize, u32, u32)>> {
    let op = prop_oneof![5 => Just(Op::Insert), 3 => Just(Op::Remove), 1 => Just(Op::SetValue)];
    // Few keys, so that there are collisions; and some that are far apart.
    let key = prop_oneof![0_u32..40, 0_u32..1 << 20];
    prop::collection::vec((op, 0_usize..5, key, any::<u32>()), 1..600)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is put in and taken out, in whatever order, and however little room there is: the lists hold just what a
    /// map would, except for what they said they had no room for.
    #[test]
    fn lists_hold_what_was_put_in_and_not_taken_out(ops in ops(), bytes in 60_u64..1500) {
        let code = DeltaCode::new(300, 6);
        let mut lists = DeltaLists::new(5, code, bytes).expect("little memory");
        let mut model = Model { lists: vec![BTreeMap::new(); 5] };
        for (op, list, key, number) in ops {
            let (name, value) = (name(number % 5), number & 0x3f);
            let entry = lists.find(list, key, &name).expect("whole");
            prop_assert_eq!(lists.peek(list, key, &name), Ok(entry));
            let known = model.lists[list].entry(key).or_default();
            prop_assert_eq!(entry.is(key), !known.is_empty());
            let at = known.iter().skip(1).position(|(_, other)| *other == Some(name)).map(|at| at + 1);
            prop_assert_eq!(entry.is_collision, at.is_some());
            match op {
                Op::Insert => match lists.insert(list, &entry, key, value, &name) {
                    Ok(_) if known.is_empty() => known.push((value, None)),
                    Ok(_) => known.insert(1, (value, Some(name))),
                    Err(error) => {
                        let expected = if at.is_some() { DeltaError::Duplicate } else { DeltaError::Overflow };
                        prop_assert_eq!(error, expected);
                    }
                },
                Op::Remove if entry.is(key) => {
                    let next = lists.remove(list, &entry).expect("whole");
                    known.remove(at.unwrap_or(0));
                    if let Some(first) = known.first_mut() {
                        first.1 = None;
                    }
                    prop_assert_eq!(next.offset, entry.offset);
                }
                Op::SetValue if entry.is(key) => {
                    lists.set_value(list, &entry, value);
                    known[at.unwrap_or(0)].0 = value;
                }
                _ => {}
            }
            model.lists[list].retain(|_, known| !known.is_empty());
            model.check(&lists);
        }
    }

    /// Lists that are read out and loaded elsewhere are the same.
    #[test]
    fn lists_survive_being_loaded(ops in ops(), room in 1000_u64..4000) {
        let code = DeltaCode::new(300, 6);
        let mut lists = DeltaLists::new(5, code, 3000).expect("little memory");
        for (_, list, key, number) in ops {
            let entry = lists.find(list, key, &name(number)).expect("whole");
            let _ = lists.insert(list, &entry, key, number & 0x3f, &name(number));
        }
        let mut other = DeltaLists::new(5, code, room).expect("little memory");
        other.begin_load();
        let fits = room * 8 >= lists.used_bits();
        for index in 0..5 {
            let list = lists.list(index);
            if list.size > 0 {
                let bytes = &list.bytes[(list.start / 8) as usize..];
                let loaded = other.load(index, bytes, (list.start % 8) as u8, list.size as u16);
                if let Err(error) = loaded {
                    prop_assert_eq!((error, fits), (DeltaError::Overflow, false));
                    return Ok(());
                }
            }
        }
        other.finish_load();
        prop_assert_eq!((other.records, other.collisions), (lists.records, lists.collisions));
        for index in 0..5 {
            let (one, other) = (lists.list(index), other.list(index));
            let all = |list: &DeltaList<'_>| list.entries().map(|e| e.map(|e| (e.key, list.value(&e)))).collect::<Vec<_>>();
            prop_assert_eq!(all(&one), all(&other));
        }
    }
}

#[test]
fn a_list_takes_no_more_than_65535_bits() {
    let code = DeltaCode::new(300, 6);
    let mut lists = DeltaLists::new(2, code, 1 << 20).expect("little memory");
    let mut put = 0;
    loop {
        let entry = lists.find(1, 7, &name(put)).expect("whole");
        match lists.insert(1, &entry, 7, 1, &name(put)) {
            Ok(_) => put += 1,
            Err(error) => break assert_eq!(error, DeltaError::Overflow),
        }
    }
    // One plain entry and as many collisions as fit.
    assert_eq!(put, 1 + (65_535 - 14) / (14 + 128));
    assert_eq!((lists.overflows, lists.records), (1, put.into()));
    // Shorter ones still fit elsewhere.
    let entry = lists.find(0, 7, &name(0)).expect("whole");
    assert!(lists.insert(0, &entry, 7, 1, &name(0)).is_ok());
}

#[test]
fn bits_that_make_no_list_are_not_loaded() {
    let code = DeltaCode::new(300, 6);
    let mut lists = DeltaLists::new(2, code, 1000).expect("little memory");
    lists.begin_load();
    assert_eq!(lists.load(0, &[0; 8], 0, 20), Err(DeltaError::Corrupt));
}

#[test]
fn few_lists_are_moved_to_make_room() {
    let code = DeltaCode::new(4000, 10);
    let mut lists = DeltaLists::new(1000, code, 1000 * 40).expect("little memory");
    for key in 0..4000 {
        let list = (key * 7919 % 1000) as usize;
        let entry = lists.find(list, key, &name(key)).expect("whole");
        lists
            .insert(list, &entry, key, 0, &name(key))
            .expect("room");
    }
    let before: Vec<u64> = (0..1000).map(|list| lists.list(list).start).collect();
    let moves = lists.moves;
    for key in 5000.. {
        let entry = lists.find(500, key, &name(key)).expect("whole");
        lists.insert(500, &entry, key, 0, &name(key)).expect("room");
        if lists.moves > moves {
            break;
        }
    }
    let moved = (0..1000)
        .filter(|list| lists.list(*list).start != before[*list])
        .count();
    assert!(moved <= 2 * FIRST_REACH + 1, "{moved} lists were moved");
}
