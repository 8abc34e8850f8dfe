//! The hash-lock machine, explored: every order of events and every outcome, in worlds of up to four requests.
//!
//! A world ([`world`]) holds the rules of the design and checks them at every step; here the worlds are
//! chosen, and [stateright](https://docs.rs/stateright) goes through each to its last state. Besides the
//! rules it looks for dead ends: a state in which nothing can happen must be one in which every request is over
//! and nothing is left behind.

mod spec;
mod world;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use spec::{Index, JUNK, Spec, Writer};
use stateright::{Checker, Model, Property};
use vdo::dedupe::Row;
use world::{Move, World};

/// How often each row of the table was taken, in all worlds together.
static TAKEN: [AtomicU64; Row::COUNT] = [const { AtomicU64::new(0) }; Row::COUNT];

/// One world, as the explorer sees it.
struct Exploration(Spec);

impl Model for Exploration {
    type State = World;
    type Action = Move;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(&self.0)]
    }

    fn actions(&self, state: &World, moves: &mut Vec<Move>) {
        if state.broken.is_none() {
            state.moves(&self.0, moves);
        }
    }

    fn next_state(&self, last: &World, mv: Move) -> Option<World> {
        let mut next = last.clone();
        next.make(&self.0, &mv);
        for row in Row::ALL {
            let taken = next.taken(row) - last.taken(row);
            if taken > 0 {
                TAKEN[row as usize].fetch_add(taken, Ordering::Relaxed);
            }
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("every rule holds", |_, world: &World| {
                world.broken.is_none()
            }),
            Property::always("no dead end", |model: &Exploration, world: &World| {
                let mut moves = Vec::new();
                world.moves(&model.0, &mut moves);
                !moves.is_empty() || (world.all_over() && world.is_clean())
            }),
            Property::always("nothing is left when all are over", |_, world: &World| {
                !world.all_over() || world.is_clean()
            }),
            Property::eventually("every request comes to its end", |_, world: &World| {
                world.all_over()
            }),
        ]
    }
}

/// Requests with the same data, some of them with an allocation, some without.
fn alike(with: usize, without: usize) -> Vec<Writer> {
    let writer = |allocated| Writer {
        name: 0,
        data: 0,
        allocated,
    };
    let mut writers = vec![writer(true); with];
    writers.extend(vec![writer(false); without]);
    writers
}

/// So many requests each of some (name, data), all with an allocation.
fn contents(groups: &[(u8, u8, usize)]) -> Vec<Writer> {
    let group = |&(name, data, count)| {
        vec![
            Writer {
                name,
                data,
                allocated: true
            };
            count
        ]
    };
    groups.iter().flat_map(group).collect()
}

/// The worlds: the plain one, with one thing or a few made different. They are as large as can be explored
/// together in well under a minute.
fn worlds() -> Vec<Spec> {
    let plain = Spec {
        title: "four with the same data",
        writers: alike(4, 0),
        old: Some((0, 1)),
        most_references: 3,
        compression: false,
        index: Index::On,
        errors: 0,
        reuses: 0,
        losses: 0,
    };
    let mut worlds = vec![plain.clone()];
    let mut with = |title, change: &dyn Fn(&mut Spec)| {
        let mut spec = plain.clone();
        spec.title = title;
        change(&mut spec);
        worlds.push(spec);
    };

    with("one request, everything else", &|w| {
        (w.writers, w.compression) = (alike(1, 0), true);
        (w.errors, w.reuses, w.losses) = (2, 2, 1);
    });
    with("two requests, everything else", &|w| {
        (w.writers, w.compression) = (alike(1, 1), true);
        (w.errors, w.reuses, w.losses) = (2, 2, 1);
    });
    with("three requests, everything else", &|w| {
        (w.writers, w.compression) = (alike(2, 1), true);
        (w.errors, w.reuses, w.losses) = (1, 1, 1);
    });

    with("four requests, everything but compression", &|w| {
        w.writers = alike(3, 1);
        (w.errors, w.reuses, w.losses) = (1, 1, 1);
    });

    // What the index knows.
    with("the index knows nothing", &|w| {
        (w.old, w.errors) = (None, 1)
    });
    with("the index is wrong", &|w| {
        (w.old, w.errors) = (Some((JUNK, 1)), 1)
    });
    with("the index knows a full block", &|w| {
        (w.old, w.errors) = (Some((0, 3)), 1)
    });
    with("the index knows a free block", &|w| {
        (w.old, w.errors) = (Some((0, 0)), 1)
    });
    with("one increment left", &|w| {
        (w.most_references, w.errors) = (2, 1)
    });
    with("one increment left, updates lost", &|w| {
        (w.most_references, w.losses) = (2, 2)
    });

    // Who can write.
    with("one has no allocation, errors", &|w| {
        (w.writers, w.errors) = (alike(3, 1), 1)
    });
    with("two have no allocation, errors", &|w| {
        (w.writers, w.errors) = (alike(2, 2), 2)
    });
    with("three have no allocation, errors", &|w| {
        (w.writers, w.errors) = (alike(1, 3), 2)
    });
    with("nobody has an allocation, errors", &|w| {
        (w.writers, w.errors) = (alike(0, 4), 2)
    });

    // What others do meanwhile.
    with("blocks taken over", &|w| w.reuses = 2);
    with("blocks taken over, two without allocation", &|w| {
        (w.writers, w.reuses) = (alike(2, 2), 2);
    });
    with("blocks taken over, updates lost, errors", &|w| {
        (w.errors, w.reuses, w.losses) = (1, 1, 1);
    });
    with("two errors", &|w| w.errors = 2);

    // Compression.
    with("compression", &|w| w.compression = true);
    with("compression, errors", &|w| {
        (w.compression, w.errors) = (true, 1)
    });
    with("compression, two without allocation, errors", &|w| {
        (w.compression, w.writers, w.errors) = (true, alike(2, 2), 1);
    });
    with("compression, blocks taken over", &|w| {
        (w.compression, w.reuses) = (true, 1)
    });
    with("compression, one increment left, updates lost", &|w| {
        (w.compression, w.most_references, w.losses) = (true, 2, 1);
    });

    // No index.
    with("index off, errors", &|w| {
        (w.index, w.errors) = (Index::Off, 2)
    });
    with("index off, compression, errors", &|w| {
        (w.index, w.compression, w.errors) = (Index::Off, true, 1);
    });

    // A slow index.
    with("one context", &|w| {
        (w.index, w.errors) = (Index::Contexts(1), 1)
    });
    with("two contexts, two names", &|w| {
        (w.index, w.writers) = (Index::Contexts(2), contents(&[(0, 0, 2), (1, 1, 2)]));
    });
    with("one context, two names", &|w| {
        (w.index, w.writers) = (Index::Contexts(1), contents(&[(0, 0, 3), (1, 1, 1)]));
    });

    // Two contents.
    with("two names", &|w| {
        (w.writers, w.errors) = (contents(&[(0, 0, 2), (1, 1, 2)]), 1)
    });
    with("two names in packed blocks", &|w| {
        (w.writers, w.compression) = (contents(&[(0, 0, 2), (1, 1, 2)]), true);
    });
    with("two names in packed blocks, one of them often", &|w| {
        (w.writers, w.compression) = (contents(&[(0, 0, 3), (1, 1, 1)]), true);
        w.index = Index::Off;
    });
    with("a collision of two and two, errors", &|w| {
        (w.writers, w.errors) = (contents(&[(0, 0, 2), (0, 1, 2)]), 1);
    });
    with("a collision of two and two, blocks taken over", &|w| {
        (w.writers, w.reuses) = (contents(&[(0, 0, 2), (0, 1, 2)]), 1);
    });
    with("a collision of three and one, compression", &|w| {
        (w.writers, w.compression) = (contents(&[(0, 0, 3), (0, 1, 1)]), true);
    });
    worlds
}

/// Goes through every world once, however many tests ask, and returns how many states there were.
fn explore() -> usize {
    static STATES: OnceLock<usize> = OnceLock::new();
    *STATES.get_or_init(|| {
        let mut states = 0;
        for spec in worlds() {
            let title = spec.title;
            let begin = Instant::now();
            let checker = Exploration(spec).checker().threads(2).spawn_bfs().join();
            let seconds = begin.elapsed().as_secs_f64();
            println!(
                "{:>8} states in {seconds:>5.2} s: {title}",
                checker.unique_state_count()
            );
            let mut found: Vec<_> = checker.discoveries().into_iter().collect();
            // A broken rule ends the path, and so looks like a dead end too.
            found.sort_by_key(|(_, path)| path.last_state().broken.is_none());
            if let Some((property, path)) = found.into_iter().next() {
                let rule = path.last_state().broken;
                panic!(
                    "in the world of {title}, not so: {property} {rule:?}, after {:?}",
                    path.into_actions()
                );
            }
            states += checker.unique_state_count();
        }
        println!("{states:>8} states in all");
        states
    })
}

/// The next of a row of numbers that look random, below `limit`.
fn random(seed: &mut u64, limit: usize) -> usize {
    *seed = seed
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    ((*seed >> 33) as usize) % limit
}

/// Worlds too large to explore are walked through at random: twelve requests, everything that can happen.
#[test]
fn every_rule_holds_on_random_walks_through_larger_worlds() {
    for walk in 0..3000 {
        let seed = &mut (walk * 7919 + 1);
        let writer = |seed: &mut u64| {
            let (name, data) = [(0, 0), (0, 0), (0, 0), (0, 1), (1, 2)][random(seed, 5)];
            Writer {
                name,
                data,
                allocated: random(seed, 4) > 0,
            }
        };
        let spec = Spec {
            title: "a random one",
            writers: (0..12).map(|_| writer(seed)).collect(),
            old: [None, Some((0, 1)), Some((JUNK, 1))][random(seed, 3)],
            most_references: 2 + random(seed, 4) as u8,
            compression: random(seed, 2) > 0,
            index: [Index::On, Index::On, Index::Contexts(2), Index::Off][random(seed, 4)],
            errors: random(seed, 4) as u8,
            reuses: random(seed, 3) as u8,
            losses: random(seed, 3) as u8,
        };
        let mut world = World::new(&spec);
        let mut made = Vec::new();
        loop {
            let mut moves = Vec::new();
            world.moves(&spec, &mut moves);
            if moves.is_empty() {
                break;
            }
            let mv = moves.swap_remove(random(seed, moves.len()));
            world.make(&spec, &mv);
            made.push(mv);
            assert!(
                world.broken.is_none(),
                "walk {walk}: {:?} after {made:?}",
                world.broken
            );
        }
        assert!(
            world.all_over() && world.is_clean(),
            "walk {walk} got stuck after {made:?}"
        );
    }
}

#[test]
fn every_rule_holds_in_every_state_of_every_world() {
    assert!(
        explore() > 100_000,
        "the worlds have become so small that they prove little"
    );
}

#[test]
fn no_row_of_the_table_is_never_taken() {
    explore();
    let taken = |row: Row| TAKEN[row as usize].load(Ordering::Relaxed);
    for row in Row::ALL {
        println!(
            "{:>9} times {} -> {}: {}",
            taken(row),
            row.from(),
            row.to(),
            row.why()
        );
    }
    let forgotten: Vec<Row> = Row::ALL
        .into_iter()
        .filter(|&row| taken(row) == 0)
        .collect();
    assert!(forgotten.is_empty(), "never taken: {forgotten:?}");
}
