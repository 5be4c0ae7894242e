// Copyright 2026 The rwkv7-world authors.
// SPDX-License-Identifier: Apache-2.0
#include "cuda_runtime.h"
