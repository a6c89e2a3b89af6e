// room: model
// Bytes as a safetensors file: tensors that are accepted lie inside the data, apart from each other and without gap.
#include <cstdint>
#include <cstdlib>

#include "model/safetensors.hpp"

using namespace troupe::model;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  auto parsed = parse_safetensors(bytes, "fuzz");
  if (!parsed || parsed->empty()) return 0;
  const std::byte* next = parsed->front().data.data();
  for (const auto& tensor : *parsed) {
    if (tensor.data.data() != next || tensor.data.empty()) std::abort();
    next += tensor.data.size();
  }
  if (next != bytes.data() + bytes.size()) std::abort();
  return 0;
}
