// Levels of instruction sets: which one this process uses, and the kernels of each. compiler/runtime/levels.py
// has the same names with the features that they need.
#pragma once

#include <string>

#include "kernels.h"

namespace products {

enum class Level { kPortable, kAvx2, kAvxVnni, kAvx512, kAvx512Vnni, kAvx512Bf16, kAmx, kNeon, kDotprod, kI8mm };

// Level of this process: the one that the environment variable LMI_COMPILE_ISA names, else the highest that this CPU
// supports. Throws std::invalid_argument for a level that this CPU lacks.
Level level();

// Level of that name. Throws std::invalid_argument for one that this CPU lacks.
Level level_named(const std::string& name);

const Kernels& kernels(Level level);

// Whether torch's library is faster than our kernels for many rows of bfloat16, or of 8-bit integers.
bool library_has_bfloat16(Level level);
bool library_has_int8(Level level);

}  // namespace products
