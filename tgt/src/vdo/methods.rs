//! The `bdev_vdo_*` methods.

use std::sync::Arc;

use serde_json::Value;
use vdo::volume::{Done, IndexCommand, Volume};
use vdo_rpc::params::{
    Create, EnableHistograms, GetStats, GrowLogical, InjectAnswers, Name, NoParams, Rebuild,
    SetOptions,
};
use vdo_rpc::results::{Dump, Histograms, OpeningInfo};
use vdo_rpc::volume::no_answer;
use vdo_rpc::{RpcError, methods, stats, volume};

use super::{EmbeddedHost, MODULE, VdoBdev, life};
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
        methods::BDEV_VDO_REBUILD,
        Allowed::Runtime,
        move |params: Rebuild| Ok(VdoBdev::rebuild(&shared, &params)?),
    );
    let shared = with(target);
    dispatcher.method(
        methods::BDEV_VDO_GET_PROGRESS,
        Allowed::Runtime,
        move |_: NoParams| Ok(progress(&shared)),
    );
    let shared = with(target);
    dispatcher.method(
        methods::BDEV_VDO_GET_STATS,
        Allowed::Runtime,
        move |params: GetStats| get_stats(&shared, &params),
    );
    for (method, command) in volume::INDEX_VERBS {
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
            volume::apply_options(bdev.volume(), &params)?;
            Ok(true)
        },
    );
    let shared = with(target);
    dispatcher.method(
        methods::BDEV_VDO_GROW_LOGICAL,
        Allowed::Runtime,
        move |params: GrowLogical| {
            let bdev = find(&shared, &params.name)?;
            let grown = bdev.grow(&shared, volume::logical_growth(&params))?;
            volume::grown("logical_size_mib", &params.name, grown)
        },
    );
    let shared = with(target);
    dispatcher.method(
        methods::BDEV_VDO_GROW_PHYSICAL,
        Allowed::Runtime,
        move |params: Name| {
            let bdev = find(&shared, &params.name)?;
            let grown = bdev.grow(&shared, volume::physical_growth(bdev.base_bytes()))?;
            volume::grown("name", &params.name, grown)
        },
    );
    let shared = with(target);
    dispatcher.method(
        methods::BDEV_VDO_INJECT_INDEX_ANSWERS,
        Allowed::Runtime,
        move |params: InjectAnswers| {
            find(&shared, &params.name)?
                .volume()
                .set_index_answer_mode(volume::answer_mode(&params));
            Ok(true)
        },
    );
    let shared = with(target);
    dispatcher.method(
        methods::BDEV_VDO_DUMP,
        Allowed::Runtime,
        move |params: Name| dump(&shared, &params.name),
    );
    let shared = with(target);
    dispatcher.method(
        methods::BDEV_VDO_ENABLE_HISTOGRAMS,
        Allowed::Runtime,
        move |params: EnableHistograms| {
            let bdev = find(&shared, &params.name)?;
            bdev.volume().keep_stage_times(params.enable);
            Ok(true)
        },
    );
    let shared = with(target);
    dispatcher.method(
        methods::BDEV_VDO_GET_HISTOGRAMS,
        Allowed::Runtime,
        move |params: Name| histograms(&shared, &params.name),
    );
}

fn find(target: &Target, name: &str) -> Result<Arc<VdoBdev>, RpcError> {
    let find = |bdev: &Arc<VdoBdev>| Arc::clone(bdev);
    let found = target.bdevs.with(name, MODULE, find);
    Ok(found.map_err(|error| life::no_volume(name, error))?)
}

/// Volumes that are being opened, and those whose index is being made again.
fn progress(target: &Target) -> Vec<OpeningInfo> {
    let mut all = volume::openings();
    for name in target.bdevs.names() {
        let bdev = find(target, &name).ok();
        all.extend(
            bdev.and_then(|bdev| {
                volume::index_rebuild(bdev.volume(), &name, bdev.base_bdev_name())
            }),
        );
    }
    all
}

/// What a volume says when it is asked.
fn ask<T: Send + 'static>(
    target: &Target,
    name: &str,
    question: impl FnOnce(&Arc<Volume<EmbeddedHost>>, Done<T>),
) -> Result<T, RpcError> {
    let bdev = find(target, name)?;
    let answer = life::ask(|done| question(bdev.volume(), done));
    answer.ok_or_else(|| no_answer(name))
}

fn get_stats(target: &Target, params: &GetStats) -> Result<Value, RpcError> {
    let names = match &params.name {
        Some(name) => vec![name.clone()],
        None => {
            let mut names = target.bdevs.names();
            names.retain(|name| find(target, name).is_ok());
            names
        }
    };
    let one = |name: String| {
        let counted = find(target, &name)?.statistics();
        let counted = counted.ok_or_else(|| no_answer(&name))?;
        Ok((name, counted))
    };
    let volumes: Vec<_> = names
        .into_iter()
        .map(one)
        .collect::<Result<_, RpcError>>()?;
    stats::answer(params, &volumes)
}

fn index(target: &Target, name: &str, command: IndexCommand) -> Result<bool, RpcError> {
    volume::prepare_index(find(target, name)?.volume(), name, command)?;
    let answer = ask(target, name, |volume, done| volume.index(command, done))?;
    volume::index_answer(name, answer)
}

fn dump(target: &Target, name: &str) -> Result<Dump, RpcError> {
    ask(target, name, |volume, done| volume.dump(done)).map(volume::dump)
}

fn histograms(target: &Target, name: &str) -> Result<Histograms, RpcError> {
    let times = ask(target, name, |volume, done| volume.stage_times(done))?;
    volume::histograms(name, times)
}
