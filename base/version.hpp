// The version of this build; CMake's project version.
#pragma once

namespace troupe {

inline constexpr const char* version = "0.1.0";

}  // namespace troupe
