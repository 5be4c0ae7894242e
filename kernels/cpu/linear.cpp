// Copyright 2026 The rwkv7-world authors.
// SPDX-License-Identifier: Apache-2.0
//
// Linear layers of few rows on a CPU, as a library of C functions; `linear.py` builds it.
#include "quantized_rows.h"

namespace {

constexpr int64_t kRowsPerTask = 16;

// `multiply_rows(begin, size, inputs, out)` multiplies some rows of the weight with all inputs.
template <class D, class MultiplyRows>
void linear(const MultiplyRows& multiply_rows, const Rows& bias, const Rows& x, const Rows& y, int64_t count,
            int64_t rows, int64_t columns) {
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
      multiply_rows(begin, size, inputs, out.data());
      if (bias.data) load_row(bias, begin, size, added);
      for (int64_t m = 0; m < count; m++) {
        float* result = out.data() + m * kRowsPerTask;
        for (int64_t i = 0; i < size; i++) result[i] += added[i];
        store_row(y, m * rows + begin, size, result);
      }
    }
  });
}

// Rows of W from `begin` on become numbers.
template <class B>
void dequantize(const Quantized& weight, const Rows& out, int64_t begin, int64_t rows, int64_t columns) {
  const int64_t blocks = (columns + kBlock - 1) / kBlock;
  const int64_t group = weight.group / kBlock, groups = (blocks + group - 1) / group;
  at::parallel_for(0, rows, 1 + kMultiplicationsPerThread / (columns + 1), [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; row++) {
      const uint8_t* w = weight.data + (begin + row) * blocks * B::kBytes;
      for (int64_t i = 0; i < blocks; i++) {
        const float scale = from_bfloat16(weight.scales[(begin + row) * groups + i / group]);
        alignas(64) float x[kBlock];
        B::load(w + i * B::kBytes, lanes(x, 0), lanes(x, 1));
        for (int64_t k = 0; k < kBlock; k++) x[k] *= scale;
        store_row(out, row * columns + i * kBlock, std::min(kBlock, columns - i * kBlock), x);
      }
    }
  });
}

}  // namespace

extern "C" {

// y (count, rows) = x (count, columns) weight^T + bias, all contiguous and of one dtype; bias (rows,) may be null.
const char* linear_few_rows(Rows weight, Rows bias, Rows x, Rows y, int64_t count, int64_t rows, int64_t columns) {
  return guarded([&] {
    with_dtype(weight.dtype, [&](auto dtype) {
      using D = decltype(dtype);
      const auto* w = static_cast<const typename D::Weight*>(weight.data);
      const auto multiply_rows = [&](int64_t begin, int64_t size, const Vectors<D>& inputs, float* out) {
        multiply<D>(w + begin * columns, size, columns, inputs, count, out, kRowsPerTask);
      };
      linear<D>(multiply_rows, bias, x, y, count, rows, columns);
    });
  });
}

// The same with a quantised weight and without bias; x and y of any dtype.
const char* quantized_few_rows(Quantized weight, Rows x, Rows y, int64_t count, int64_t rows, int64_t columns) {
  return guarded([&] {
    const auto multiply_rows = [&](int64_t begin, int64_t size, const Vectors<Float32>& inputs, float* out) {
      multiply_quantized(weight, begin, size, columns, inputs, count, out, kRowsPerTask);
    };
    linear<Float32>(multiply_rows, Rows{}, x, y, count, rows, columns);
  });
}

// out (rows, columns), contiguous, from row `begin` of the weight on.
const char* dequantize_rows(Quantized weight, Rows out, int64_t begin, int64_t rows, int64_t columns) {
  const auto run = weight.bits == 4 ? dequantize<Int4> : dequantize<Int8>;
  return guarded([&] { run(weight, out, begin, rows, columns); });
}

}  // extern "C"
