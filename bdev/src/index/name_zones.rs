//! Which zone thread a name belongs to.
//!
//! An index is cut by the delta lists of its volume index: each zone has as many of them in a row as any other, but for the last, which
//! has what is left. Nothing on disk says so. A name's hash zone is the zone that has its list, so that a question to the index
//! never leaves its thread, whatever number of threads there is.

use crate::format::index::{IndexGeometry, SubIndexGeometry};
use crate::types::{RecordName, ZoneIndex};

/// The lists of one part of the volume index, dealt out to zones.
#[derive(Clone, Copy, Debug)]
struct Dealt {
    part: SubIndexGeometry,
    /// Lists of a zone.
    each: u32,
}

impl Dealt {
    fn new(part: SubIndexGeometry, zones: u8) -> Dealt {
        let each = part.lists_per_zone(zones);
        Dealt { part, each }
    }
}

/// How names are dealt out to zones.
#[derive(Clone, Copy, Debug)]
pub struct NameZones {
    zones: u8,
    geometry: IndexGeometry,
    dense: Dealt,
    samples: Option<Dealt>,
}

impl NameZones {
    /// For an index of this geometry and so many zones, 1 to 16.
    pub fn new(geometry: &IndexGeometry, zones: u8) -> NameZones {
        let zones = zones.max(1);
        let samples = geometry.sampled_part();
        NameZones {
            zones,
            geometry: *geometry,
            dense: Dealt::new(geometry.dense_part(), zones),
            samples: samples.map(|part| Dealt::new(part, zones)),
        }
    }

    /// The zone of a name.
    #[inline]
    pub fn of(&self, name: &RecordName) -> ZoneIndex {
        if self.zones == 1 {
            return ZoneIndex(0);
        }
        let dealt = match &self.samples {
            Some(samples) if self.geometry.is_sample(name) => samples,
            _ => &self.dense,
        };
        ZoneIndex((dealt.part.list_key(name).list / dealt.each) as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::murmur3_x64_128;

    /// HashZone_t1 of the original: names are spread evenly over any number of zones.
    #[test]
    fn names_are_spread_evenly_over_zones_in_indexes_of_any_kind() {
        for sparse in [0, 28] {
            let geometry = IndexGeometry::new(4096, 2, 30, sparse, false);
            for zones in 1..=16_u8 {
                let dealt = NameZones::new(&geometry, zones);
                let mut counts = vec![0_u32; usize::from(zones)];
                for number in 0..20_000_u32 {
                    let name = RecordName(murmur3_x64_128(&number.to_le_bytes(), 0));
                    counts[dealt.of(&name).index()] += 1;
                }
                // The last zone may have fewer lists.
                let fair = 20_000 / u32::from(zones);
                let most = *counts.iter().max().unwrap_or(&0);
                assert!(most < fair + fair / 5, "{zones} zones: {counts:?}");
                assert!(
                    counts.iter().all(|count| *count > 0),
                    "{zones} zones: {counts:?}"
                );
            }
        }
    }
}
