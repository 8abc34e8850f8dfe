#  SPDX-License-Identifier: GPL-2.0-only
"""The bdev_vdo_* commands for SPDK's command-line client.

With this file's folder on PYTHONPATH:

    rpc.py --plugin vdo_rpc bdev_vdo_get_stats vdo0

(`rpc.py` of an SPDK tree, or `spdk-rpc` of the PyPI package `spdk`). Options left out are not sent, so
that the target's defaults apply.
"""

import argparse
import json

import nvme_reserve


def _call(args, method, **params):
    params = {name: value for name, value in params.items() if value is not None}
    _show(args.client.call(method, params))


def _show(result):
    # Batches and dry runs have no result yet; "true" says nothing the exit status does not.
    if isinstance(result, str):
        print(result.rstrip('\n'))
    elif result is not None and result is not True:
        print(json.dumps(result, indent=2))


def _name(args):
    return args.name_option if args.name_option is not None else args.name


def _add_name(parser, required=True):
    """The volume's name, as a positional argument or as -b/--name."""
    group = parser.add_mutually_exclusive_group(required=required)
    group.add_argument('name', nargs='?', help='name of the VDO bdev')
    group.add_argument('-b', '--name', dest='name_option', metavar='NAME', help='name of the VDO bdev')
    return group


def _add_low_space_percent(parser, more):
    parser.add_argument('-l', '--low-space-percent', type=int, nargs='*', metavar='PERCENT',
                        help=f'shares of the physical blocks in use that are told of, the smallest first. {more}')


def _one_name(subparsers, method, text):
    parser = subparsers.add_parser(method, help=text)
    _add_name(parser)
    parser.set_defaults(func=lambda args: _call(args, method, name=_name(args)))


def _bdev_vdo_create(args):
    _call(args, 'bdev_vdo_create',
          name=args.name,
          base_bdev_name=args.base_bdev_name,
          format=args.format,
          logical_size_mib=args.logical_size_mib,
          slab_size_mib=args.slab_size_mib,
          index_memory_gb=args.index_memory_gb,
          index_sparse=args.index_sparse,
          cpumask=args.cpumask,
          block_map_cache_mib=args.block_map_cache_mib,
          deduplication=args.deduplication,
          compression=args.compression,
          discard_freed=args.discard_freed,
          low_space_percent=args.low_space_percent,
          profile=args.profile.read() if args.profile is not None else None)


def _bdev_vdo_get_stats(args):
    _call(args, 'bdev_vdo_get_stats', name=_name(args), per_zone=args.per_zone, format=args.format)


def _bdev_vdo_set_options(args):
    _call(args, 'bdev_vdo_set_options',
          name=_name(args),
          dedupe_timeout_ms=args.dedupe_timeout_ms,
          dedupe_min_timer_ms=args.dedupe_min_timer_ms,
          compression=args.compression,
          discard_freed=args.discard_freed,
          low_space_percent=args.low_space_percent)


def _bdev_vdo_grow_logical(args):
    _call(args, 'bdev_vdo_grow_logical', name=_name(args), logical_size_mib=args.logical_size_mib)


def _bdev_vdo_inject_index_answers(args):
    _call(args, 'bdev_vdo_inject_index_answers', name=_name(args), answers=args.answers, delay_ms=args.delay_ms)


def _bdev_vdo_set_examine(args):
    _call(args, 'bdev_vdo_set_examine', enable=args.enable, **{'except': args.names})


def _bdev_vdo_rebuild(args):
    _call(args, 'bdev_vdo_rebuild', name=_name(args), base_bdev_name=args.base_bdev_name)


def spdk_rpc_plugin_initialize(subparsers):
    """Called by the client with its table of commands."""
    switch = argparse.BooleanOptionalAction

    p = subparsers.add_parser('bdev_vdo_create',
                              help='Open the VDO volume on a bdev, or format one there')
    p.add_argument('-b', '--name', required=True, help='name of the new bdev')
    p.add_argument('-d', '--base-bdev-name', required=True, help='bdev that holds the volume')
    p.add_argument('-f', '--format', choices=['if_blank', 'never', 'force'],
                   help='if_blank: format a blank base bdev, open a volume, refuse anything else; '
                        'never: there must be a volume; '
                        'force: format, whatever is there. Default: if_blank')
    p.add_argument('-s', '--logical-size-mib', type=int,
                   help='size of the volume in MiB, when formatting. Default: what fits without savings')
    p.add_argument('-S', '--slab-size-mib', type=int,
                   help='size of a slab in MiB, a power of two, when formatting. Default: 2048')
    p.add_argument('-i', '--index-memory-gb', type=float,
                   help='memory of the index in GiB, when formatting: 0.25, 0.5, 0.75 or a whole number. '
                        'Default: 0.25')
    p.add_argument('--index-sparse', action=switch, help='sparse index, when formatting. Default: no')
    p.add_argument('-m', '--cpumask',
                   help='cores of the zone threads, such as 0x3 or [0,1]. Default: all of the target')
    p.add_argument('-c', '--block-map-cache-mib', type=int,
                   help='size of the block map page cache in MiB. Default: 128')
    p.add_argument('--deduplication', action=switch, help='ask the index for duplicates. Default: yes')
    p.add_argument('--compression', action=switch, help='compress data. Default: no')
    p.add_argument('--discard-freed', action=switch,
                   help='discard blocks on the base bdev when they are freed. Default: no')
    _add_low_space_percent(p, 'Default: 80 95')
    p.add_argument('-p', '--profile', type=argparse.FileType('r', encoding='utf-8'), metavar='FILE',
                   help='YAML file with parameters by their names in JSON-RPC; options given here go before')
    p.set_defaults(func=_bdev_vdo_create)

    _one_name(subparsers, 'bdev_vdo_delete', 'Shut a VDO volume down and remove its bdev; the data stays')

    p = subparsers.add_parser('bdev_vdo_rebuild', help='Rebuild a VDO volume that is read-only')
    group = _add_name(p)
    group.add_argument('-d', '--base-bdev-name', help='bdev that holds the volume, which need not be up')
    p.set_defaults(func=_bdev_vdo_rebuild)

    p = subparsers.add_parser('bdev_vdo_get_progress', help='How far VDO volumes are that are being opened')
    p.set_defaults(func=lambda args: _call(args, 'bdev_vdo_get_progress'))

    p = subparsers.add_parser('bdev_vdo_get_stats', help='Statistics of one or all VDO bdevs')
    _add_name(p, required=False)
    p.add_argument('-z', '--per-zone', action='store_true', default=None,
                   help='show the share of each zone thread as well')
    p.add_argument('-y', '--yaml', dest='format', action='store_const', const='yaml',
                   help='as text, in the manner of vdostats --verbose')
    p.set_defaults(func=_bdev_vdo_get_stats)

    _one_name(subparsers, 'bdev_vdo_index_online', 'Ask the index again')
    _one_name(subparsers, 'bdev_vdo_index_offline', 'Stop asking the index; it stays open')
    _one_name(subparsers, 'bdev_vdo_index_open', 'Open the index')
    _one_name(subparsers, 'bdev_vdo_index_close', 'Close the index')
    _one_name(subparsers, 'bdev_vdo_index_create', 'Make a new, empty index')

    p = subparsers.add_parser('bdev_vdo_set_options', help='Change options of a working VDO bdev')
    _add_name(p)
    p.add_argument('-t', '--dedupe-timeout-ms', type=int,
                   help='how long a write waits for the index, in milliseconds (1 to 120000)')
    p.add_argument('-T', '--dedupe-min-timer-ms', type=int,
                   help='shortest interval between two looks for late answers, in milliseconds (1 to 1000)')
    p.add_argument('--compression', action=switch, help='compress what is written from now on')
    p.add_argument('--discard-freed', action=switch,
                   help='discard blocks on the base bdev that are freed from now on')
    _add_low_space_percent(p, 'In place of those before')
    p.set_defaults(func=_bdev_vdo_set_options)

    p = subparsers.add_parser('bdev_vdo_grow_logical', help='Make a working VDO bdev present more')
    _add_name(p)
    p.add_argument('-s', '--logical-size-mib', type=int, required=True, help='size it is to have in MiB')
    p.set_defaults(func=_bdev_vdo_grow_logical)

    _one_name(subparsers, 'bdev_vdo_grow_physical',
              'Have a working VDO bdev take all of its base bdev, which has become larger')

    p = subparsers.add_parser('bdev_vdo_inject_index_answers',
                              help='Make the index slow, silent or failing, to see what becomes of writes')
    _add_name(p)
    p.add_argument('-a', '--answers', choices=['prompt', 'delayed', 'never', 'fail'], required=True,
                   help='how the index answers from now on')
    p.add_argument('-d', '--delay-ms', type=int, help='how much later, with delayed answers (1 to 600000)')
    p.set_defaults(func=_bdev_vdo_inject_index_answers)

    p = subparsers.add_parser('bdev_vdo_enable_histograms',
                              help='Keep times of the stages of requests of a VDO bdev, or stop that')
    _add_name(p)
    group = p.add_mutually_exclusive_group(required=True)
    group.add_argument('-e', '--enable', dest='enable', action='store_true', help='keep times, from now on and anew')
    group.add_argument('-d', '--disable', dest='enable', action='store_false', help='forget them')
    p.set_defaults(func=lambda args: _call(args, 'bdev_vdo_enable_histograms', name=_name(args), enable=args.enable))

    _one_name(subparsers, 'bdev_vdo_get_histograms', 'How long requests of a VDO bdev stayed at each stage')
    _one_name(subparsers, 'bdev_vdo_dump', 'Hash zones, live hash locks and dedupe contexts of a VDO bdev')

    p = subparsers.add_parser('bdev_vdo_set_examine',
                              help='Whether volumes on new bdevs are brought up unasked (SPDK targets only)')
    group = p.add_mutually_exclusive_group(required=True)
    group.add_argument('-e', '--enable', dest='enable', action='store_true', default=None, help='bring them up')
    group.add_argument('-d', '--disable', dest='enable', action='store_false', help='leave them alone')
    p.add_argument('-x', '--except', dest='names', nargs='+', metavar='BDEV',
                   help='leave volumes on these bdevs alone until bdev_vdo_create names them')
    p.set_defaults(func=_bdev_vdo_set_examine)

    nvme_reserve.add_commands(subparsers, _show)
