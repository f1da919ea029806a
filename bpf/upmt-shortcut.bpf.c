// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* The fast plane's programs with the anchor's shortcut, which wants Linux 6.0: shortcut.h. */
#define SHORTCUT
#include "upmt.bpf.c"
