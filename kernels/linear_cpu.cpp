// Copyright 2026 The rwkv7-world authors.
// SPDX-License-Identifier: Apache-2.0
//
// A linear layer of few rows on a CPU, as a library of one C function; `linear_cpu.py` builds and calls it.

#include "few_rows.h"

namespace {

constexpr int64_t kRowsPerTask = 16;

template <class D>
void linear(const Rows& weight, const Rows& bias, const Rows& x, const Rows& y, int64_t count, int64_t rows,
            int64_t columns) {
  const auto* w = static_cast<const typename D::Weight*>(weight.data);
  Vectors<D> inputs(count, columns);
  std::vector<float> row(columns);
  for (int64_t m = 0; m < count; m++) {
    load_row(x, m * columns, columns, row.data());
    inputs.set(m, row.data(), columns);
  }
  const int64_t tasks = (rows + kRowsPerTask - 1) / kRowsPerTask;
  const int64_t grain = 1 + kMultiplicationsPerThread / (kRowsPerTask * columns * count + 1);
  at::parallel_for(0, tasks, grain, [&](int64_t first, int64_t last) {
    std::vector<float> out(count * kRowsPerTask);
    float added[kRowsPerTask] = {};
    for (int64_t task = first; task < last; task++) {
      const int64_t begin = task * kRowsPerTask, size = std::min(kRowsPerTask, rows - begin);
      multiply<D>(w + begin * columns, size, columns, inputs, count, out.data(), kRowsPerTask);
      if (bias.data) load_row(bias, begin, size, added);
      for (int64_t m = 0; m < count; m++) {
        float* result = out.data() + m * kRowsPerTask;
        for (int64_t i = 0; i < size; i++) result[i] += added[i];
        store_row(y, m * rows + begin, size, result);
      }
    }
  });
}

}  // namespace

extern "C" {

// y (count, rows) = x (count, columns) weight^T + bias, all contiguous and of one dtype; bias (rows,) may be null.
void linear_few_rows(Rows weight, Rows bias, Rows x, Rows y, int64_t count, int64_t rows, int64_t columns) {
  with_dtype(weight.dtype, [&](auto dtype) {
    linear<decltype(dtype)>(weight, bias, x, y, count, rows, columns);
  });
}

}  // extern "C"
