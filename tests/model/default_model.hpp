// Where tests find the default model. A test that needs it fails when it is missing: deploy/ puts it there.
#pragma once

#include <cstdlib>
#include <filesystem>

namespace troupe::testing {

inline std::filesystem::path default_model() {
  if (const char* path = std::getenv("TROUPE_TEST_MODEL")) return path;
  const char* home = std::getenv("HOME");
  return std::filesystem::path(home ? home : "") /
         ".cache/troupe/models/SmolLM2-135M-Instruct.Q4_1.gguf";
}

}  // namespace troupe::testing
