//! The estimate as tables for a person.

use std::fmt::Write;

use comfy_table::{CellAlignment, Table, presets};
use indicatif::{BinaryBytes, HumanCount};

use crate::BLOCK;
use crate::figures::{Estimate, Index};

/// The report.
pub fn report(estimate: &Estimate) -> String {
    let mut out = String::new();
    let sections = [
        introduction(estimate),
        what_is_stored(estimate),
        how_often(estimate),
        by_index(estimate),
        to_buy(estimate),
    ];
    for section in sections {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{}\n", section.trim_end());
    }
    out.trim_end().to_owned()
}

/// A table whose first column names what the others tell.
fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn size(blocks: u64) -> String {
    BinaryBytes(blocks * BLOCK).to_string()
}

fn count(number: u64) -> String {
    HumanCount(number).to_string()
}

fn percent(part: u64, all: u64) -> String {
    format!("{:.1} %", part as f64 * 100.0 / all.max(1) as f64)
}

/// How many times less.
fn ratio(all: u64, part: u64) -> String {
    match part {
        0 => "-".to_owned(),
        part => format!("{:.2} : 1", all as f64 / part as f64),
    }
}

fn introduction(estimate: &Estimate) -> String {
    let found = &estimate.inputs;
    let mut out = format!(
        "{} files in {} folders, {} devices: {}, for which {} are allocated now",
        count(found.files),
        count(found.folders),
        count(found.devices),
        BinaryBytes(found.bytes),
        BinaryBytes(found.allocated_bytes),
    );
    if estimate.error_count > 0 {
        let unread = size(estimate.blocks.unread);
        let errors = count(estimate.error_count);
        let _ = write!(
            out,
            "\nNOT ALL COULD BE READ: {errors} errors, and {unread} of what was found are not in these figures."
        );
    }
    if estimate.sampled < 1.0 {
        let share = estimate.sampled * 100.0;
        let _ = write!(
            out,
            "\nThere are more different blocks than the memory has room for: {share:.3} % of their names were followed to the end, and \
             their figures scaled up. More --memory is more exact."
        );
    }
    out
}

fn what_is_stored(estimate: &Estimate) -> String {
    let (blocks, stored, saved) = (&estimate.blocks, &estimate.stored, &estimate.saved);
    let mut table = table(&["", "blocks", "bytes", "of all"]);
    let mut row = |name: &str, number: u64, last: String| {
        table.add_row([name.to_owned(), count(number), size(number), last]);
    };
    let share = |number| percent(number, blocks.read);
    row("Read", blocks.read, String::new());
    row("  zero", blocks.zero, share(blocks.zero));
    row("  duplicate", blocks.duplicate, share(blocks.duplicate));
    row("  unique", blocks.unique, share(blocks.unique));
    row("Saved by zeroes", saved.by_zeroes, share(saved.by_zeroes));
    row(
        "Saved by duplicates",
        saved.by_duplicates,
        share(saved.by_duplicates),
    );
    if let Some(number) = saved.by_compression {
        row("Saved by compression", number, share(number));
    }
    let without = stored.without_compression;
    row(
        "Stored without compression",
        without,
        ratio(blocks.read, without),
    );
    if let (Some(number), Some(with)) = (stored.with_compression, &estimate.compression) {
        row(
            "Stored with compression",
            number,
            ratio(blocks.read, number),
        );
        let fragments = format!("  {} fragments in", count(with.fragments));
        row(&fragments, with.packed_blocks, String::new());
        row("  not packed", with.single_blocks, String::new());
    }
    table.to_string()
}

fn how_often(estimate: &Estimate) -> String {
    let mut table = table(&["Times a block comes", "contents", "blocks", "of all"]);
    for repeat in &estimate.repeats {
        let times = match (repeat.from, repeat.to) {
            (from, to) if from == to => count(from),
            (from, to) => format!("{} to {}", count(from), count(to)),
        };
        let share = percent(repeat.blocks, estimate.blocks.read);
        table.add_row([times, count(repeat.contents), count(repeat.blocks), share]);
    }
    table.to_string()
}

fn index_name(index: &Index) -> String {
    let kind = if index.sparse { "sparse" } else { "dense" };
    format!("{} GB, {kind}", index.memory_gb)
}

fn by_index(estimate: &Estimate) -> String {
    let mut table = table(&[
        "Index memory",
        "remembers",
        "duplicates missed",
        "data",
        "block map",
        "other overhead",
        "of which index",
        "all",
    ]);
    for index in &estimate.indexes {
        let mut row = vec![
            index_name(index),
            size(index.remembers_blocks),
            count(index.duplicates_missed),
        ];
        match index.device() {
            Some(device) => row.extend([
                size(device.data_blocks),
                size(device.block_map_blocks),
                size(device.overhead_blocks),
                size(device.index_blocks),
                size(device.used_blocks()),
            ]),
            None => row.push("more than a volume holds".to_owned()),
        }
        table.add_row(row);
    }
    let model = "(What an index forgets is reckoned by chapters, in the order in which blocks were read here: a model.)";
    format!("{table}\n{model}")
}

fn to_buy(estimate: &Estimate) -> String {
    let index = &estimate.indexes[estimate.recommended_index];
    let Some(device) = index.device() else {
        return "No volume holds that much.".to_owned();
    };
    let compression = match index.with_compression {
        Some(_) => " and compression",
        None => "",
    };
    format!(
        "Take a base device of {}, with slabs of {} MiB, an index of {}{compression}. A fifth of its room for data is then free, and the volume \
         says it is used to {} %. It presents {} or more.\nNow {} are allocated; the volume would use {}, its own overhead included ({}).",
        BinaryBytes(device.bytes),
        device.slab_size_mib,
        index_name(index),
        device.used_percent(),
        size(estimate.blocks.read),
        BinaryBytes(estimate.inputs.allocated_bytes),
        size(device.used_blocks()),
        ratio(
            estimate.inputs.allocated_bytes / BLOCK,
            device.used_blocks()
        ),
    )
}
