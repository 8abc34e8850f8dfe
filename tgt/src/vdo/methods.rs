//! The `bdev_vdo_*` methods.

use std::sync::Arc;

use serde_json::{Value, json};
use vdo::dedupe::IndexWord;
use vdo::index::AnswerMode;
use vdo::seam::Nanos;
use vdo::volume::IndexCommand;
use vdo_rpc::methods;
use vdo_rpc::params::{Answers, Create, GetStats, InjectAnswers, Name, SetOptions};
use vdo_rpc::results::{ContextsDump, Dump, HashLockDump, HashZoneDump};
use vdo_rpc::{ErrorCode, RpcError, stats};

use super::{MODULE, VdoBdev, life};
use crate::rpc::{Allowed, Dispatcher};
use crate::target::Target;

/// Enters every `bdev_vdo_*` method.
pub fn register(dispatcher: &mut Dispatcher, target: &Arc<Target>) {
    let with = |target: &Arc<Target>| Arc::clone(target);
    let shared = with(target);
    dispatcher.method(
        methods::BDEV_VDO_CREATE,
        Allowed::Runtime,
        move |params: Create| {
            let name = params.name.clone();
            VdoBdev::bring_up(&shared, params)?;
            Ok(name)
        },
    );
    let shared = with(target);
    dispatcher.method(
        methods::BDEV_VDO_DELETE,
        Allowed::Runtime,
        move |params: Name| {
            VdoBdev::take_down(&shared, &params.name)?;
            Ok(true)
        },
    );
    let shared = with(target);
    dispatcher.method(
        methods::BDEV_VDO_GET_STATS,
        Allowed::Runtime,
        move |params: GetStats| get_stats(&shared, &params),
    );
    let verbs = [
        (methods::BDEV_VDO_INDEX_ONLINE, IndexCommand::Online),
        (methods::BDEV_VDO_INDEX_OFFLINE, IndexCommand::Offline),
        (methods::BDEV_VDO_INDEX_OPEN, IndexCommand::Open),
        (methods::BDEV_VDO_INDEX_CLOSE, IndexCommand::Close),
        (methods::BDEV_VDO_INDEX_CREATE, IndexCommand::Create),
    ];
    for (method, command) in verbs {
        let shared = with(target);
        dispatcher.method(method, Allowed::Runtime, move |params: Name| {
            index(&shared, &params.name, command)
        });
    }
    let shared = with(target);
    dispatcher.method(
        methods::BDEV_VDO_SET_OPTIONS,
        Allowed::Runtime,
        move |params: SetOptions| {
            let bdev = find(&shared, &params.name)?;
            let volume = bdev.volume();
            volume.set_dedupe_timeouts(params.dedupe_timeout_ms, params.dedupe_min_timer_ms);
            if let Some(compression) = params.compression {
                volume.set_compression(compression);
            }
            Ok(true)
        },
    );
    let shared = with(target);
    dispatcher.method(
        methods::BDEV_VDO_INJECT_INDEX_ANSWERS,
        Allowed::Runtime,
        move |params: InjectAnswers| {
            let mode = match params.answers {
                Answers::Prompt => AnswerMode::Prompt,
                Answers::Delayed => {
                    AnswerMode::Delayed(Nanos(params.delay_ms.unwrap_or(0) * 1_000_000))
                }
                Answers::Never => AnswerMode::Never,
                Answers::Fail => AnswerMode::Fail,
            };
            find(&shared, &params.name)?
                .volume()
                .set_index_answer_mode(mode);
            Ok(true)
        },
    );
    let shared = with(target);
    dispatcher.method(
        methods::BDEV_VDO_DUMP,
        Allowed::Runtime,
        move |params: Name| dump(&shared, &params.name),
    );
}

fn find(target: &Target, name: &str) -> Result<Arc<VdoBdev>, RpcError> {
    Ok(target
        .bdevs
        .with(name, MODULE, |bdev: &Arc<VdoBdev>| Arc::clone(bdev))?)
}

fn no_answer(name: &str) -> RpcError {
    RpcError::new(
        ErrorCode::ETIMEDOUT,
        format!("name: volume {name:?} did not answer in time"),
    )
}

fn get_stats(target: &Target, params: &GetStats) -> Result<Value, RpcError> {
    let one = |name: &str| -> Result<Value, RpcError> {
        let statistics = find(target, name)?
            .statistics()
            .ok_or_else(|| no_answer(name))?;
        Ok(stats::to_json(name, &statistics, params.per_zone))
    };
    match &params.name {
        Some(name) => Ok(json!([one(name)?])),
        None => {
            let volumes = target.bdevs.names();
            let all = volumes.iter().filter(|name| find(target, name).is_ok());
            Ok(json!(
                all.map(|name| one(name)).collect::<Result<Vec<_>, _>>()?
            ))
        }
    }
}

fn index(target: &Target, name: &str, command: IndexCommand) -> Result<bool, RpcError> {
    let bdev = find(target, name)?;
    let word = life::ask(|done| bdev.volume().index(command, done))
        .ok_or_else(|| no_answer(name))?
        .map_err(|error| {
            RpcError::errno(error.errno(), format!("name: volume {name:?}: {error}"))
        })?;
    match word {
        IndexWord::Error => Err(RpcError::new(
            ErrorCode::EIO,
            format!("name: the index of volume {name:?} failed; the log says why"),
        )),
        _ => Ok(true),
    }
}

fn dump(target: &Target, name: &str) -> Result<Dump, RpcError> {
    let bdev = find(target, name)?;
    let dump = life::ask(|done| bdev.volume().dump(done)).ok_or_else(|| no_answer(name))?;
    let hash_zones = dump
        .zones
        .iter()
        .zip(0..)
        .map(|(zone, number)| HashZoneDump {
            zone: number,
            hash_locks: zone
                .locks
                .iter()
                .map(|lock| HashLockDump {
                    record_name: lock
                        .name
                        .0
                        .iter()
                        .map(|byte| format!("{byte:02x}"))
                        .collect(),
                    state: lock.state.name().to_owned(),
                    references: u64::from(lock.references),
                    waiters: u64::from(lock.waiters),
                    duplicate: lock.locked.then_some(lock.at.pbn.get()),
                    verified: lock.verified,
                })
                .collect(),
            contexts: ContextsDump {
                idle: zone.contexts.idle,
                pending: zone.contexts.pending,
                timed_out: zone.contexts.timed_out,
                timed_out_complete: zone.contexts.timed_out_complete,
            },
        });
    Ok(Dump {
        name: name.to_owned(),
        hash_zones: hash_zones.collect(),
    })
}
