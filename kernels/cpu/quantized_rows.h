// Copyright 2026 The rwkv7-world authors.
// SPDX-License-Identifier: Apache-2.0
//
// Products of few vectors with a matrix of 8-bit or 4-bit weights, each group of a row having a scale.
//
// Weights become float32 in registers and vectors stay float32, so that nothing is lost but what quantising lost. As in
// `few_rows.h`, the sums of an output are formed in the same order whatever is computed beside it.

#pragma once

#include "few_rows.h"

namespace {

constexpr int64_t kBlock = 32;  // weights; rows are padded to whole blocks with weights of zero
static_assert(kBlock == 2 * kLanes && kPadding % kBlock == 0, "");

extern "C" {

// A matrix (rows, columns) as `quantized_linear.py` makes it: (rows, blocks, bytes of a block) and (rows, groups).
struct Quantized {
  const uint8_t* data;
  const uint16_t* scales;  // bfloat16
  int64_t bits, group;     // a group is so many weights of a row, a multiple of kBlock
};

}  // extern "C"

// One byte a weight.
struct Int8 {
  static constexpr int64_t kBytes = kBlock;
  static void load(const uint8_t* block, Lanes& first, Lanes& second) {
    first = load_half(reinterpret_cast<const int8_t*>(block));
    second = load_half(reinterpret_cast<const int8_t*>(block) + kLanes);
  }

 private:
  static Lanes load_half(const int8_t* bytes) {
#if defined(__AVX512F__)
    const __m128i loaded = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes));
    return Lanes(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(loaded)));
#else
    alignas(64) float x[kLanes];
    for (int i = 0; i < kLanes; i++) x[i] = bytes[i];
    return lanes(x, 0);
#endif
  }
};

// The lower halves of 16 bytes are a block's first weights, the upper halves its last, each with 8 added.
struct Int4 {
  static constexpr int64_t kBytes = kBlock / 2;
  static void load(const uint8_t* block, Lanes& first, Lanes& second) {
#if defined(__AVX512F__)
    // Of an index only the lowest four bits count
    const __m512 values = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
    const __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(block)));
    first = Lanes(_mm512_permutexvar_ps(bytes, values));
    second = Lanes(_mm512_permutexvar_ps(_mm512_srli_epi32(bytes, 4), values));
#else
    alignas(64) float low[kLanes], high[kLanes];
    for (int i = 0; i < kLanes; i++) low[i] = int(block[i] & 15) - 8;
    for (int i = 0; i < kLanes; i++) high[i] = int(block[i] >> 4) - 8;
    first = lanes(low, 0);
    second = lanes(high, 0);
#endif
  }
};

// Some blocks of a row with M vectors, times their scale, are added to `totals`.
template <class B, int M>
inline __attribute__((always_inline)) void add_group(const uint8_t* w, uint16_t scale, int64_t blocks, const float* x,
                                                     int64_t x_stride, Lanes (&totals)[M]) {
  Lanes even[M] = {}, odd[M] = {};
  for (int64_t i = 0; i < blocks; i++) {
    Lanes first, second;
    B::load(w + i * B::kBytes, first, second);
    for (int m = 0; m < M; m++) even[m] += first * load_lanes(x + m * x_stride + i * kBlock);
    for (int m = 0; m < M; m++) odd[m] += second * load_lanes(x + m * x_stride + i * kBlock + kLanes);
  }
  for (int m = 0; m < M; m++) totals[m] += from_bfloat16(scale) * (even[m] + odd[m]);
}

// Rows with M vectors. Groups of so few blocks that their number has to be known here to be quick are `G` blocks, others
// are told by G = 0; they are added to two sums in turn, as one would make each addition wait for the last.
template <class B, int M, int G>
__attribute__((noinline)) void multiply_quantized_rows(const Quantized& weight, int64_t begin, int64_t rows,
                                                       int64_t blocks, const float* x, int64_t x_stride, float* y,
                                                       int64_t y_stride) {
  const int64_t group = G ? G : weight.group / kBlock, groups = (blocks + group - 1) / group;
  for (int64_t i = 0; i < rows; i++) {
    const uint8_t* w = weight.data + (begin + i) * blocks * B::kBytes;
    const uint16_t* scales = weight.scales + (begin + i) * groups;
    Lanes even[M] = {}, odd[M] = {};
    int64_t g = 0, at = 0;  // at: the first block of the group
    for (; at + 2 * group <= blocks; g += 2, at += 2 * group) {
      add_group<B, M>(w + at * B::kBytes, scales[g], group, x + at * kBlock, x_stride, even);
      const int64_t next = at + group;
      add_group<B, M>(w + next * B::kBytes, scales[g + 1], group, x + next * kBlock, x_stride, odd);
    }
    for (; at < blocks; g++, at += group)
      add_group<B, M>(w + at * B::kBytes, scales[g], std::min(group, blocks - at), x + at * kBlock, x_stride, even);
    for (int m = 0; m < M; m++) y[m * y_stride + i] = sum(even[m] + odd[m]);
  }
}

template <class B, int G>
void multiply_groups(const Quantized& weight, int64_t begin, int64_t rows, int64_t columns, const Vectors<Float32>& x,
                     int64_t count, float* y, int64_t y_stride) {
  const int64_t blocks = (columns + kBlock - 1) / kBlock;
  int64_t m = 0;
  for (; m + kVectors <= count; m += kVectors)
    multiply_quantized_rows<B, kVectors, G>(weight, begin, rows, blocks, x.at(m), x.stride, y + m * y_stride, y_stride);
  for (; m < count; m++)
    multiply_quantized_rows<B, 1, G>(weight, begin, rows, blocks, x.at(m), x.stride, y + m * y_stride, y_stride);
}

template <class B>
void multiply_blocks(const Quantized& weight, int64_t begin, int64_t rows, int64_t columns, const Vectors<Float32>& x,
                     int64_t count, float* y, int64_t y_stride) {
  const auto run = weight.group == kBlock       ? multiply_groups<B, 1>
                   : weight.group == 2 * kBlock ? multiply_groups<B, 2>
                                                : multiply_groups<B, 0>;
  run(weight, begin, rows, columns, x, count, y, y_stride);
}

// y (count, rows at y_stride) = rows of W from `begin` on, times x, for all vectors; as `multiply` of few_rows.h.
inline void multiply_quantized(const Quantized& weight, int64_t begin, int64_t rows, int64_t columns,
                               const Vectors<Float32>& x, int64_t count, float* y, int64_t y_stride) {
  const auto run = weight.bits == 4 ? multiply_blocks<Int4> : multiply_blocks<Int8>;
  run(weight, begin, rows, columns, x, count, y, y_stride);
}

}  // namespace
