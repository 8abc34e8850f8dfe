/* SPDX-License-Identifier: GPL-2.0-only
 * The headers of SPDK that bindgen reads; the allow-list in build.rs says what of them is used. */
#include <spdk/stdinc.h>
#include <spdk/bdev.h>
#include <spdk/bdev_module.h>
#include <spdk/cpuset.h>
#include <spdk/env.h>
#include <spdk/event.h>
#include <spdk/json.h>
#include <spdk/jsonrpc.h>
#include <spdk/log.h>
#include <spdk/module/bdev/nvme.h>
#include <spdk/notify.h>
#include <spdk/rpc.h>
#include <spdk/thread.h>
#include <spdk/trace.h>
#include <spdk/uuid.h>
#include <spdk/version.h>
