// What people who come from vLLM and llama.cpp's server type, and what it is called here. Pure functions.
#pragma once

#include <string_view>

namespace troupe::api {

// For a flag that `troupe` does not have ("--gpu-memory-utilization", "-ngl"); empty: none is known.
std::string_view hint_for_flag(std::string_view flag);
// For a path that is not served ("/completion"); empty: none is known.
std::string_view hint_for_path(std::string_view path);

}  // namespace troupe::api
