// Copyright 2026 The rwkv7-world authors.
// SPDX-License-Identifier: Apache-2.0
//
// Products of a weight matrix with few vectors, y = W x, as fast as the weights can be read.
//
// W is read from its first number to its last, the one pattern that hardware foresees, and every row multiplied with
// some vectors x at a time. Sums are float32, and those of one output are formed in the same order whatever else is
// computed beside it and by however many threads: a row of a batch comes out as it does alone.

#pragma once

#include <ATen/Parallel.h>

#include <vector>

#include "cpu_numbers.h"

namespace {

// Vectors x are padded with zeros to a multiple of it, and once more lest they share cache sets.
constexpr int64_t kPadding = 32;
constexpr int64_t kMultiplicationsPerThread = 32768;  // below which a thread is not worth waking

// So many x are handled at a time, whose sums have to stay in registers.
#if defined(__AVX512F__)
constexpr int kVectors = 4;
#else
constexpr int kVectors = 2;
#endif

// How the weights of a dtype meet their vectors: `kStep` of them are loaded at a time and added, times x, to a sum.
struct Float32 {
  using Weight = float;
  using Input = float;
  using Loaded = Lanes;
  static constexpr int kStep = kLanes;
  static Loaded load(const Weight* w) { return load_lanes(w); }
  static void add(Lanes& total, const Loaded& w, const Input* x) { total += w * load_lanes(x); }
};

struct Float16 {
  using Weight = uint16_t;
  using Input = float;
  using Loaded = Lanes;
  static constexpr int kStep = kLanes;
  static Loaded load(const Weight* w) {
#if defined(__AVX512F__)
    return Lanes(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(w))));
#else
    alignas(64) float x[kLanes];
#if defined(__F16C__)
    for (int i = 0; i < kLanes; i += 8)
      _mm256_store_ps(x + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(w + i))));
#elif defined(__aarch64__)
    for (int i = 0; i < kLanes; i++) x[i] = reinterpret_cast<const __fp16*>(w)[i];
#else
    for (int i = 0; i < kLanes; i++) x[i] = from_float16(w[i]);
#endif
    return lanes(x, 0);
#endif
  }
  static void add(Lanes& total, const Loaded& w, const Input* x) { total += w * load_lanes(x); }
};

#if defined(__AVX512BF16__)
struct BFloat16 {
  using Weight = uint16_t;
  using Input = uint16_t;
  using Loaded = __m512bh;
  static constexpr int kStep = 2 * kLanes;
  static Loaded load(const Weight* w) { return __m512bh(_mm512_loadu_si512(w)); }
  static void add(Lanes& total, const Loaded& w, const Input* x) {
    total = Lanes(_mm512_dpbf16_ps(__m512(total), w, load(x)));
  }
};
#else
struct BFloat16 {
  using Weight = uint16_t;
  using Input = float;
  using Loaded = Lanes;
  static constexpr int kStep = kLanes;
  static Loaded load(const Weight* w) {
    alignas(64) float x[kLanes];
    for (int i = 0; i < kLanes; i++) x[i] = from_bfloat16(w[i]);
    return lanes(x, 0);
  }
  static void add(Lanes& total, const Loaded& w, const Input* x) { total += w * load_lanes(x); }
};
#endif

// The vectors x of a product, padded, in the form that the weights want.
template <class D>
class Vectors {
 public:
  Vectors(int64_t count, int64_t size)
      : stride((size + kPadding - 1) / kPadding * kPadding + kPadding), values(count * stride) {}

  typename D::Input* at(int64_t index) { return values.data() + index * stride; }
  const typename D::Input* at(int64_t index) const { return values.data() + index * stride; }

  void set(int64_t index, const float* x, int64_t size) {
    typename D::Input* out = at(index);
    for (int64_t i = 0; i < size; i++) convert(x[i], out[i]);
  }

  const int64_t stride;

 private:
  static void convert(float x, float& out) { out = x; }
  static void convert(float x, uint16_t& out) { out = to_bfloat16(x); }

  std::vector<typename D::Input> values;
};

// One row of W with M vectors; y of a vector lies `y_stride` after that of the one before. The sums are
// two arrays in plain loops, as GCC keeps them in registers only so.
template <class D, int M>
inline void multiply_row(const typename D::Weight* w, int64_t columns, const typename D::Input* x, int64_t x_stride,
                         float* y, int64_t y_stride) {
  Lanes even[M] = {}, odd[M] = {};
  int64_t k = 0;
  for (; k + 2 * D::kStep <= columns; k += 2 * D::kStep) {
    const auto first = D::load(w + k), second = D::load(w + k + D::kStep);
    for (int m = 0; m < M; m++) D::add(even[m], first, x + m * x_stride + k);
    for (int m = 0; m < M; m++) D::add(odd[m], second, x + m * x_stride + k + D::kStep);
  }
  if (k + D::kStep <= columns) {
    const auto loaded = D::load(w + k);
    for (int m = 0; m < M; m++) D::add(even[m], loaded, x + m * x_stride + k);
    k += D::kStep;
  }
  if (k < columns) {
    typename D::Weight rest[D::kStep] = {};
    for (int64_t i = k; i < columns; i++) rest[i - k] = w[i];
    const auto loaded = D::load(rest);
    for (int m = 0; m < M; m++) D::add(odd[m], loaded, x + m * x_stride + k);
  }
  for (int m = 0; m < M; m++) y[m * y_stride] = sum(even[m] + odd[m]);
}

template <class D, int M>
__attribute__((noinline)) void multiply_rows(const typename D::Weight* w, int64_t rows, int64_t columns,
                                             const typename D::Input* x, int64_t x_stride, float* y,
                                             int64_t y_stride) {
  for (int64_t i = 0; i < rows; i++) multiply_row<D, M>(w + i * columns, columns, x, x_stride, y + i, y_stride);
}

// y (count, rows at y_stride) = W (rows, columns) x for all vectors. Rows of W should be few enough to stay in the
// second-level cache while the vectors take turns.
template <class D>
void multiply(const typename D::Weight* w, int64_t rows, int64_t columns, const Vectors<D>& x, int64_t count, float* y,
              int64_t y_stride) {
  int64_t m = 0;
  for (; m + kVectors <= count; m += kVectors)
    multiply_rows<D, kVectors>(w, rows, columns, x.at(m), x.stride, y + m * y_stride, y_stride);
  for (; m < count; m++) multiply_rows<D, 1>(w, rows, columns, x.at(m), x.stride, y + m * y_stride, y_stride);
}

// Calls `run` with the weights' dtype as a type.
template <typename Run>
void with_dtype(int64_t dtype, const Run& run) {
  if (dtype == kFloat32) run(Float32());
  if (dtype == kBFloat16) run(BFloat16());
  if (dtype == kFloat16) run(Float16());
}

}  // namespace
