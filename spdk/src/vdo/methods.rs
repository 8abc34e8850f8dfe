//! The `bdev_vdo_*` methods.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use vdo::format::{Growth, VolumeLayout};
use vdo::volume::{Done, IndexCommand, Volume, VolumeError};
use vdo_rpc::params::{
    Create, EnableHistograms, GetStats, GrowLogical, InjectAnswers, Name, NoParams, Rebuild,
    SetOptions,
};
use vdo_rpc::{Parameters, RpcError, methods, params, stats, volume};

use super::bdev::{self, VdoBdev};
use super::life::{self, Origin};
use super::{SpdkHost, state};
use crate::rpc::{self, Method};

use std::sync::Arc;

/// Enters every method.
pub(super) fn register() {
    rpc::register::<CreateMethod>();
    rpc::register::<Delete>();
    rpc::register::<RebuildMethod>();
    rpc::register::<Progress>();
    rpc::register::<GetStatistics>();
    rpc::register::<Online>();
    rpc::register::<Offline>();
    rpc::register::<Open>();
    rpc::register::<Close>();
    rpc::register::<CreateIndex>();
    rpc::register::<Options>();
    rpc::register::<GrowLogicalMethod>();
    rpc::register::<GrowPhysical>();
    rpc::register::<Inject>();
    rpc::register::<DumpMethod>();
    rpc::register::<EnableHistogramsMethod>();
    rpc::register::<GetHistograms>();
    rpc::register::<SetExamine>();
}

fn volume_called(name: &str) -> Result<Arc<Volume<SpdkHost>>, RpcError> {
    // SAFETY: on the app thread; the bdev is there, and not kept.
    bdev::find(name).map(|bdev| Arc::clone(unsafe { bdev.as_ref() }.volume()))
}

/// What a volume says when it is asked.
async fn ask<T: Send + 'static>(
    name: &str,
    question: impl FnOnce(&Arc<Volume<SpdkHost>>, Done<T>),
) -> Result<T, RpcError> {
    let volume = volume_called(name)?;
    let answer = life::ask(|done| question(&volume, done)).await;
    answer.ok_or_else(|| volume::no_answer(name))
}

struct CreateMethod;
impl Method for CreateMethod {
    const NAME: &'static str = methods::BDEV_VDO_CREATE;
    type Parameters = Create;

    async fn call(params: Create) -> Result<Value, RpcError> {
        let name = params.name.clone();
        life::bring_up(params, Origin::Asked).await?;
        Ok(json!(name))
    }
}

struct Delete;
impl Method for Delete {
    const NAME: &'static str = methods::BDEV_VDO_DELETE;
    type Parameters = Name;

    async fn call(params: Name) -> Result<Value, RpcError> {
        VdoBdev::unregister(bdev::find(&params.name)?).await?;
        Ok(json!(true))
    }
}

struct RebuildMethod;
impl Method for RebuildMethod {
    const NAME: &'static str = methods::BDEV_VDO_REBUILD;
    type Parameters = Rebuild;

    async fn call(params: Rebuild) -> Result<Value, RpcError> {
        life::rebuild(params).await.map(|rebuilt| json!(rebuilt))
    }
}

struct Progress;
impl Method for Progress {
    const NAME: &'static str = methods::BDEV_VDO_GET_PROGRESS;
    type Parameters = NoParams;

    async fn call(_: NoParams) -> Result<Value, RpcError> {
        let mut all = volume::openings();
        for bdev in bdev::all() {
            // SAFETY: on the app thread; not kept.
            let bdev = unsafe { bdev.as_ref() };
            let base = bdev.params().base_bdev_name;
            all.extend(volume::index_rebuild(bdev.volume(), &bdev.name(), &base));
        }
        Ok(json!(all))
    }
}

struct GetStatistics;
impl Method for GetStatistics {
    const NAME: &'static str = methods::BDEV_VDO_GET_STATS;
    type Parameters = GetStats;

    async fn call(params: GetStats) -> Result<Value, RpcError> {
        let bdevs = match &params.name {
            Some(name) => vec![bdev::find(name)?],
            None => bdev::all(),
        };
        let volumes: Vec<_> = bdevs
            .into_iter()
            .map(|bdev| {
                // SAFETY: on the app thread; not kept.
                let bdev = unsafe { bdev.as_ref() };
                (bdev.name(), Arc::clone(bdev.volume()))
            })
            .collect();
        let mut all = Vec::new();
        for (name, volume) in volumes {
            let statistics = life::ask(|done| volume.statistics(done)).await;
            let statistics = statistics.ok_or_else(|| volume::no_answer(&name))?;
            all.push((name, statistics));
        }
        stats::answer(&params, &all)
    }
}

async fn index(name: String, command: IndexCommand) -> Result<Value, RpcError> {
    volume::prepare_index(&*volume_called(&name)?, &name, command)?;
    let result = ask(&name, |volume, done| volume.index(command, done)).await?;
    volume::index_answer(&name, result).map(|done| json!(done))
}

macro_rules! index_methods {
    ($($kind:ident: $name:ident, $command:ident;)*) => {$(
        struct $kind;
        impl Method for $kind {
            const NAME: &'static str = methods::$name;
            type Parameters = Name;

            async fn call(params: Name) -> Result<Value, RpcError> {
                index(params.name, IndexCommand::$command).await
            }
        }
    )*};
}

index_methods! {
    Online: BDEV_VDO_INDEX_ONLINE, Online;
    Offline: BDEV_VDO_INDEX_OFFLINE, Offline;
    Open: BDEV_VDO_INDEX_OPEN, Open;
    Close: BDEV_VDO_INDEX_CLOSE, Close;
    CreateIndex: BDEV_VDO_INDEX_CREATE, Create;
}

struct Options;
impl Method for Options {
    const NAME: &'static str = methods::BDEV_VDO_SET_OPTIONS;
    type Parameters = SetOptions;

    async fn call(params: SetOptions) -> Result<Value, RpcError> {
        let volume = volume_called(&params.name)?;
        volume::apply_options(&volume, &params)?;
        Ok(json!(true))
    }
}

struct GrowLogicalMethod;
impl Method for GrowLogicalMethod {
    const NAME: &'static str = methods::BDEV_VDO_GROW_LOGICAL;
    type Parameters = GrowLogical;

    async fn call(params: GrowLogical) -> Result<Value, RpcError> {
        let grown = grow(&params.name, volume::logical_growth(&params)).await?;
        volume::grown("logical_size_mib", &params.name, grown).map(|grown| json!(grown))
    }
}

struct GrowPhysical;
impl Method for GrowPhysical {
    const NAME: &'static str = methods::BDEV_VDO_GROW_PHYSICAL;
    type Parameters = Name;

    async fn call(params: Name) -> Result<Value, RpcError> {
        // SAFETY: on the app thread; not kept.
        let bytes = unsafe { bdev::find(&params.name)?.as_ref() }.base_bytes();
        let growth = volume::physical_growth(bytes.unwrap_or(0));
        let grown = grow(&params.name, growth).await?;
        volume::grown("name", &params.name, grown).map(|grown| json!(grown))
    }
}

/// Has a volume grow, and tells its users.
async fn grow(
    name: &str,
    growth: Growth,
) -> Result<Result<Arc<VolumeLayout>, VolumeError>, RpcError> {
    let grown = ask(name, |volume, done| {
        volume.grow(growth, volume::growth_keeper(), done);
    })
    .await?;
    // SAFETY: on the app thread; found anew, since it may have gone meanwhile, and not kept.
    unsafe { bdev::find(name)?.as_ref() }.tell_size()?;
    Ok(grown)
}

struct Inject;
impl Method for Inject {
    const NAME: &'static str = methods::BDEV_VDO_INJECT_INDEX_ANSWERS;
    type Parameters = InjectAnswers;

    async fn call(params: InjectAnswers) -> Result<Value, RpcError> {
        let volume = volume_called(&params.name)?;
        volume.set_index_answer_mode(volume::answer_mode(&params));
        Ok(json!(true))
    }
}

struct DumpMethod;
impl Method for DumpMethod {
    const NAME: &'static str = methods::BDEV_VDO_DUMP;
    type Parameters = Name;

    async fn call(params: Name) -> Result<Value, RpcError> {
        let dump = ask(&params.name, |volume, done| volume.dump(done)).await?;
        Ok(json!(volume::dump(dump)))
    }
}

struct EnableHistogramsMethod;
impl Method for EnableHistogramsMethod {
    const NAME: &'static str = methods::BDEV_VDO_ENABLE_HISTOGRAMS;
    type Parameters = EnableHistograms;

    async fn call(params: EnableHistograms) -> Result<Value, RpcError> {
        volume_called(&params.name)?.keep_stage_times(params.enable);
        Ok(json!(true))
    }
}

struct GetHistograms;
impl Method for GetHistograms {
    const NAME: &'static str = methods::BDEV_VDO_GET_HISTOGRAMS;
    type Parameters = Name;

    async fn call(params: Name) -> Result<Value, RpcError> {
        let times = ask(&params.name, |volume, done| volume.stage_times(done)).await?;
        volume::histograms(&params.name, times).map(|histograms| json!(histograms))
    }
}

/// SPDK's alone: the embedded target looks at no bdev unasked.
pub const SET_EXAMINE: &str = "bdev_vdo_set_examine";

/// Parameters of `bdev_vdo_set_examine`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Examine {
    /// Whether volumes on new bdevs are brought up.
    pub enable: bool,
    /// Bdevs whose volumes are not, until `bdev_vdo_create` names them; beside those there are already.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<String>,
}

impl Parameters for Examine {
    fn check(&self) -> Result<(), RpcError> {
        (self.except.iter()).try_for_each(|name| params::bdev_name("except", name))
    }
}

struct SetExamine;
impl Method for SetExamine {
    const NAME: &'static str = SET_EXAMINE;
    const EARLY: bool = true;
    type Parameters = Examine;

    async fn call(params: Examine) -> Result<Value, RpcError> {
        state().examines.set(params.enable);
        state().spoken_for.borrow_mut().extend(params.except);
        Ok(json!(true))
    }
}
