// For benches: a value, or the end of the program with the reason.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <type_traits>
#include <utility>

#include "base/result.hpp"

namespace troupe::gpu::cuda {

template <class T>
T need(result<T> r) {
  if (!r) {
    std::printf("FAILED: %s\n", to_string(r.error()).c_str());
    std::fflush(stdout);
    std::_Exit(1);
  }
  if constexpr (!std::is_void_v<T>) return std::move(*r);
}

}  // namespace troupe::gpu::cuda
