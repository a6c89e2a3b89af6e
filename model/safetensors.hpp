// One safetensors file (https://github.com/huggingface/safetensors#format): a length, a JSON
// header, the data.
//
// Strict, as the format asks: no duplicate keys, header of at most 100 MB, offsets that cover the
// data exactly without overlap or gap. Works on bytes alone, so that it can be fuzzed: never aborts
// on any input. Any thread.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "model/stored_tensor.hpp"

namespace troupe::model {

// Names are the file's; shapes are turned around (shape[0] contiguous). `source` names the file in
// errors.
result<std::vector<stored_tensor>> parse_safetensors(std::span<const std::byte> bytes,
                                                     const std::string& source);

}  // namespace troupe::model
