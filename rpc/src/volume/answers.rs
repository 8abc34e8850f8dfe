//! What a volume that works is told and what it answers, in the words of the methods. (For its statistics see
//! [`crate::stats`].)

use vdo::VdoError;
use vdo::seam::{Host, Nanos, RequestKind};
use vdo::volume::{
    AnswerMode, IndexCommand, IndexWord, LockReport, RequestReport, StageTime, SweepReport, Volume,
    VolumeDump,
};

use super::{memory, narrowed, widened};
use crate::methods;
use crate::params::{Answers, InjectAnswers, SetOptions};
use crate::results::{
    ContextsDump, Dump, HashLockDump, HashZoneDump, Histograms, IndexShareDump, RequestDump,
    StageHistogram, SweepDump, VdoInfo, saving_percent, used_percent,
};
use crate::{ErrorCode, RpcError};

/// The methods that do something to the index, and what.
pub const INDEX_VERBS: [(&str, IndexCommand); 5] = [
    (methods::BDEV_VDO_INDEX_ONLINE, IndexCommand::Online),
    (methods::BDEV_VDO_INDEX_OFFLINE, IndexCommand::Offline),
    (methods::BDEV_VDO_INDEX_OPEN, IndexCommand::Open),
    (methods::BDEV_VDO_INDEX_CLOSE, IndexCommand::Close),
    (methods::BDEV_VDO_INDEX_CREATE, IndexCommand::Create),
];

/// `driver_specific.vdo` of a volume. Waits for nothing, and may be asked from any thread.
pub fn info<H: Host>(volume: &Volume<H>, base_bdev_name: &str) -> VdoInfo {
    let usage = volume.usage();
    let (data, overhead) = (usage.data_blocks_used, usage.overhead_blocks_used);
    VdoInfo {
        base_bdev_name: base_bdev_name.to_owned(),
        mode: usage.mode.name().to_owned(),
        read_only_reason: volume.read_only_reason().map(str::to_owned),
        index_state: volume.index_word().as_str().to_owned(),
        compression: volume.compression(),
        discard_freed: volume.discarding().name().to_owned(),
        low_space_percent: widened(&volume.low_space_percent()),
        zones: u64::from(volume.options().zones),
        logical_blocks: volume.layout().logical_blocks,
        logical_blocks_used: usage.logical_blocks_used,
        physical_blocks: usage.physical_blocks,
        data_blocks_used: data,
        overhead_blocks_used: overhead,
        used_percent: used_percent(data, overhead, usage.physical_blocks),
        saving_percent: saving_percent(usage.logical_blocks_used, data),
    }
}

/// Does what `bdev_vdo_set_options` asks.
///
/// # Errors
/// When the base bdev cannot do what is asked; nothing was changed then.
pub fn apply_options<H: Host>(volume: &Volume<H>, options: &SetOptions) -> Result<(), RpcError> {
    if let Some(discard_freed) = options.discard_freed {
        let name = &options.name;
        let switched = volume.set_discard_freed(discard_freed);
        switched.map_err(|error| {
            let what = format!("discard_freed: volume \"{name}\": {error}");
            RpcError::errno(error.errno(), what)
        })?;
    }
    volume.set_dedupe_timeouts(options.dedupe_timeout_ms, options.dedupe_min_timer_ms);
    if let Some(compression) = options.compression {
        volume.set_compression(compression);
    }
    if let Some(percents) = &options.low_space_percent {
        volume.set_low_space_percent(&narrowed(percents));
    }
    Ok(())
}

/// How the index is to answer.
pub fn answer_mode(params: &InjectAnswers) -> AnswerMode {
    match params.answers {
        Answers::Prompt => AnswerMode::Prompt,
        Answers::Delayed => AnswerMode::Delayed(Nanos(params.delay_ms.unwrap_or(0) * 1_000_000)),
        Answers::Never => AnswerMode::Never,
        Answers::Fail => AnswerMode::Fail,
    }
}

/// To be called before `Volume::index` of the volume called `name`: sees to it that there is memory for an index that the volume was
/// opened without.
///
/// # Errors
/// `-ENOMEM` when there is not.
pub fn prepare_index<H: Host>(
    volume: &Volume<H>,
    name: &str,
    command: IndexCommand,
) -> Result<(), RpcError> {
    match command {
        IndexCommand::Create | IndexCommand::Open | IndexCommand::Online => {}
        IndexCommand::Close | IndexCommand::Offline => return Ok(()),
    }
    volume.keep_for_index(|bytes| {
        memory::keep(bytes).map_err(|left| {
            let (needed, left) = (bytes >> 20, left >> 20);
            let what = format!(
                "name: the index of volume \"{name}\" needs {needed} MiB of memory, and {left} MiB can be had here; \
                 use a machine with more memory, or format with a smaller index_memory_gb"
            );
            RpcError::new(ErrorCode::ENOMEM, what)
        })
    })
}

/// The answer of a method of [`INDEX_VERBS`]: what `Volume::index` said of the volume called `name`.
///
/// # Errors
/// When the index could not be told, or failed.
pub fn index_answer(name: &str, result: Result<IndexWord, VdoError>) -> Result<bool, RpcError> {
    match result {
        Ok(IndexWord::Error) => Err(RpcError::new(
            ErrorCode::EIO,
            format!("name: the index of volume \"{name}\" failed; the log says why"),
        )),
        Ok(_) => Ok(true),
        Err(error) => Err(engine_error(name, &error)),
    }
}

/// What is answered when the engine refuses or fails something about a volume that was up: to stop it, to change
/// its index.
pub fn engine_error(name: &str, error: &VdoError) -> RpcError {
    RpcError::errno(error.errno(), format!("name: volume \"{name}\": {error}"))
}

/// `-ETIMEDOUT` for a volume that was asked and does not answer.
pub fn no_answer(name: &str) -> RpcError {
    RpcError::new(
        ErrorCode::ETIMEDOUT,
        format!("name: volume \"{name}\" did not answer in time"),
    )
}

/// The answer of `bdev_vdo_dump`.
pub fn dump(dump: VolumeDump) -> Dump {
    let hash_zones = dump.zones.iter().zip(0..).map(|(zone, number)| {
        let contexts = zone.contexts;
        HashZoneDump {
            zone: number,
            hash_locks: zone.locks.iter().map(hash_lock).collect(),
            contexts: ContextsDump {
                idle: contexts.idle,
                pending: contexts.pending,
                timed_out: contexts.timed_out,
                timed_out_complete: contexts.timed_out_complete,
            },
            requests: zone
                .in_flight
                .iter()
                .map(|request| request_dump(request, zone.now))
                .collect(),
            sweeps: zone
                .sweeps
                .iter()
                .map(|sweep| sweep_dump(sweep, zone.now))
                .collect(),
            waiting_requests: u64::from(zone.waiting),
            base_ios: u64::from(zone.base_ios),
            index: zone.index.map(|share| IndexShareDump {
                open_chapter: share.open_chapter,
                oldest_chapter: share.oldest_chapter,
                open_entries: share.open_entries,
                closing: share.is_closing,
                lookups: share.lookups,
                stalled: share.stalled,
            }),
        }
    });
    Dump {
        hash_zones: hash_zones.collect(),
        name: dump.name,
    }
}

/// The answer of `bdev_vdo_get_histograms`.
///
/// # Errors
/// If no times are kept.
pub fn histograms(name: &str, times: Option<Vec<StageTime>>) -> Result<Histograms, RpcError> {
    let Some(times) = times else {
        let what =
            format!("name: volume \"{name}\" keeps no times: bdev_vdo_enable_histograms makes it");
        return Err(RpcError::new(ErrorCode::EINVAL, what));
    };
    let microseconds = |time: Nanos| time.0 as f64 / 1000.0;
    let stage = |time: StageTime| StageHistogram {
        stage: time.stretch.name().to_owned(),
        count: time.count,
        mean_us: microseconds(time.mean),
        p50_us: microseconds(time.p50),
        p99_us: microseconds(time.p99),
        p999_us: microseconds(time.p999),
        max_us: microseconds(time.max),
    };
    Ok(Histograms {
        name: name.to_owned(),
        stages: times.into_iter().map(stage).collect(),
    })
}

fn kind_name(kind: RequestKind) -> String {
    let name = match kind {
        RequestKind::Read => "read",
        RequestKind::Write => "write",
        RequestKind::WriteZeroes => "write_zeroes",
        RequestKind::Unmap => "unmap",
        RequestKind::Flush => "flush",
    };
    name.to_owned()
}

fn sweep_dump(sweep: &SweepReport, now: Nanos) -> SweepDump {
    SweepDump {
        kind: kind_name(sweep.header.kind),
        offset: sweep.header.offset,
        length: sweep.header.length,
        zone_bytes: sweep.bytes,
        zone_bytes_done: sweep.done,
        running_us: now.0.saturating_sub(sweep.since.0) / 1000,
    }
}

fn request_dump(request: &RequestReport, now: Nanos) -> RequestDump {
    RequestDump {
        kind: kind_name(request.kind),
        logical_block: request.lbn.get(),
        waits_for: request.stage.name().to_owned(),
        waiting_us: now.0.saturating_sub(request.since.0) / 1000,
    }
}

fn hash_lock(lock: &LockReport) -> HashLockDump {
    let digits = lock.name.0.iter().map(|byte| format!("{byte:02x}"));
    HashLockDump {
        record_name: digits.collect(),
        state: lock.state.name().to_owned(),
        references: u64::from(lock.references),
        waiters: u64::from(lock.waiters),
        duplicate: lock.locked.then_some(lock.at.pbn.get()),
        verified: lock.verified,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_that_failed_is_an_error_and_any_other_state_is_not() {
        assert_eq!(index_answer("v", Ok(IndexWord::Online)), Ok(true));
        assert_eq!(index_answer("v", Ok(IndexWord::Closed)), Ok(true));
        let error = index_answer("v", Ok(IndexWord::Error)).unwrap_err();
        assert_eq!(error.code, ErrorCode::EIO);
        assert!(
            error.message.contains("\"v\"") && error.message.contains("log"),
            "{error}"
        );
        let refused = Err(VdoError::Invalid("close it first".into()));
        let error = index_answer("v", refused).unwrap_err();
        assert_eq!(error.code, ErrorCode::EINVAL);
        assert!(error.message.ends_with("close it first"), "{error}");
    }

    #[test]
    fn delays_are_milliseconds() {
        let params = |answers, delay_ms| InjectAnswers {
            name: "v".into(),
            answers,
            delay_ms,
        };
        assert_eq!(
            answer_mode(&params(Answers::Delayed, Some(20))),
            AnswerMode::Delayed(Nanos(20_000_000))
        );
        assert_eq!(
            answer_mode(&params(Answers::Prompt, None)),
            AnswerMode::Prompt
        );
        assert_eq!(
            answer_mode(&params(Answers::Never, None)),
            AnswerMode::Never
        );
        assert_eq!(answer_mode(&params(Answers::Fail, None)), AnswerMode::Fail);
    }

    #[test]
    fn the_verbs_of_the_index_are_methods_of_the_contract() {
        for (method, _) in INDEX_VERBS {
            assert!(methods::ALL.iter().any(|known| known.name == method));
        }
    }
}
