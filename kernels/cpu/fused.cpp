// Copyright 2026 The rwkv7-world authors.
// SPDX-License-Identifier: Apache-2.0
//
// What a layer does between its matrices, on a CPU, as a library of C functions; `fused.py` builds and calls it.

#include "time_mix.h"

extern "C" {

const char* mix_tokens(Rows x, Rows previous, Rows mix, Rows out, int64_t shifts, int64_t time, int64_t tokens,
                       int64_t hidden) {
  return guarded([&] { mix_rows(x, previous, mix, out, shifts, time, tokens, hidden); });
}

const char* squared_relu(Rows x, Rows out, int64_t numbers) {
  return guarded([&] { squared_relu_rows(x, out, numbers); });
}

const char* time_mix(const Problem* p, const TimeMix* m) {
  return guarded([&] { run_time_mix(*p, *m); });
}

}  // extern "C"
