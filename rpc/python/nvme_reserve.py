#  SPDX-License-Identifier: GPL-2.0-only
"""NVMe reservations, for volumes whose base device more than one machine can reach.

A machine that holds the reservation of a namespace is the only one that can read and write it. It is made of commands that
SPDK passes on as they are (`bdev_nvme_send_cmd`):

- *register* a key, by which this host is known there. To the device a host is one run of one target: a target that is started
  again is another host.
- *acquire* the reservation, kind "exclusive access". With "preempt and abort" it is taken from the host that is known by a key, and
  what that host still has under way at the device has ended when the command is answered.
- *report* who is registered, and who holds it.

A preemption is a compare and swap: of two machines that take the reservation from the same third one, only one gets it.
"""

import base64
import secrets
import struct

REGISTER, REPORT, ACQUIRE, RELEASE = 0x0d, 0x0e, 0x11, 0x15
EXCLUSIVE_ACCESS = 2
KINDS = ['none', 'write exclusive', 'exclusive access', 'write exclusive, registrants only',
         'exclusive access, registrants only', 'write exclusive, all registrants',
         'exclusive access, all registrants']
CONFLICT, INVALID_FIELD = (0, 0x83), (0, 0x02)
PREEMPT_AND_ABORT = 2
REPLACE, IGNORE_EXISTING_KEY, PERSIST = 2, 1 << 3, 3 << 30
REPORT_BYTES = 4096
HEADER_BYTES, REGISTRANT_BYTES = 64, 64


class Refused(Exception):
    """The device did not do what it was told."""

    def __init__(self, what, status):
        kind, code = status
        why = {CONFLICT: 'reservation conflict', INVALID_FIELD: 'the device does not know how'}.get(status)
        super().__init__('%s: %s' % (what, why or 'status 0x%x of kind %d' % (code, kind)))
        self.status = status


class Namespace:
    """A namespace of a controller that is attached to a target, by a client of the target's RPC."""

    def __init__(self, client, controller, number):
        self.client, self.controller, self.number = client, controller, number

    def _send(self, what, opcode, dwords, data=None, receive=0):
        command = struct.pack('<II32x6I', opcode, self.number, *(dwords + [0] * (6 - len(dwords))))
        params = {'name': self.controller, 'cmd_type': 'io', 'cmdbuf': base64.urlsafe_b64encode(command).decode()}
        if data is not None:
            params.update(data_direction='h2c', data=base64.urlsafe_b64encode(data).decode())
        else:
            params.update(data_direction='c2h', data_len=receive)
        answer = self.client.call('bdev_nvme_send_cmd', params)
        status = struct.unpack('<I', base64.urlsafe_b64decode(answer['cpl'])[12:16])[0] >> 17
        if status & 0x7ff:
            raise Refused(what, (status >> 8 & 7, status & 0xff))
        return base64.urlsafe_b64decode(answer['data']) if receive else None

    def report(self):
        data = self._send('report', REPORT, [REPORT_BYTES // 4 - 1, 1], receive=REPORT_BYTES)
        generation, kind, count, persists = struct.unpack('<IBH2xB', data[:10])
        registrants = []
        for at in range(HEADER_BYTES, min(HEADER_BYTES + count * REGISTRANT_BYTES, len(data)), REGISTRANT_BYTES):
            holds, key, host = struct.unpack('<2xB5xQ16s', data[at:at + 32])
            registrants.append({'key': '0x%x' % key, 'host_id': host.hex(), 'holds': bool(holds & 1)})
        return {'kind': KINDS[kind] if kind < len(KINDS) else kind, 'generation': generation,
                'persists': bool(persists), 'registrants': registrants}

    def register(self, key):
        """Whether the registration outlasts a power failure of the device."""
        data, how = struct.pack('<QQ', 0, key), REPLACE | IGNORE_EXISTING_KEY
        try:
            self._send('register', REGISTER, [how | PERSIST], data)
            return True
        except Refused as refused:
            if refused.status != INVALID_FIELD:
                raise
        self._send('register', REGISTER, [how], data)
        return False

    def acquire(self, key, preempted):
        """Takes the reservation: the one that nobody has, or the one that the host known as `preempted` has."""
        action = 0 if preempted is None else PREEMPT_AND_ABORT
        data = struct.pack('<QQ', key, preempted or 0)
        self._send('acquire', ACQUIRE, [action | EXCLUSIVE_ACCESS << 8], data)
        # A preemption of a host that does not hold the reservation succeeds, and takes nothing.
        held = {'key': '0x%x' % key, 'holds': True}
        if not any(held.items() <= registrant.items() for registrant in self.report()['registrants']):
            raise Refused('acquire: another host holds the reservation', CONFLICT)

    def unregister(self, key):
        self._send('release', REGISTER, [1], struct.pack('<QQ', key, 0))


def _namespace(args):
    return Namespace(args.client, args.controller, args.namespace)


def reserve(args):
    namespace = _namespace(args)
    key = args.key or secrets.randbits(63) + 1
    persists = namespace.register(key)
    try:
        namespace.acquire(key, args.preempt)
    except Refused:
        namespace.unregister(key)
        raise
    return {'key': '0x%x' % key, 'persists': persists}


def release(args):
    _namespace(args).unregister(args.key)


def report(args):
    return _namespace(args).report()


def add_commands(subparsers, show):
    """Adds the commands; `show` prints what one answers."""
    def command(name, text, run):
        def checked(args):
            try:
                show(run(args))
            except Refused as refused:
                raise SystemExit('%s: %s' % (name, refused))
        parser = subparsers.add_parser(name, help=text)
        parser.add_argument('-n', '--controller', required=True, help='name of the attached NVMe controller')
        parser.add_argument('-s', '--namespace', type=int, default=1, help='number of the namespace. Default: 1')
        parser.set_defaults(func=checked)
        return parser

    def number(text):
        return int(text, 0)

    p = command('nvme_reserve', 'Be the only host that can read and write an NVMe namespace', reserve)
    p.add_argument('-k', '--key', type=number, help='what this host is to be known by. Default: a random number')
    p.add_argument('-p', '--preempt', type=number, metavar='KEY',
                   help='take the reservation from the host known by this key, and end what it has under way')
    p = command('nvme_release', 'Give the reservation of an NVMe namespace up', release)
    p.add_argument('-k', '--key', type=number, required=True, help='what this host is known by')
    command('nvme_reservation', 'Who has reserved an NVMe namespace, and who could', report)
