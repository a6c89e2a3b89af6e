// room: model
// Bytes as a GGUF file, up to bound weights and their first rows: whatever is accepted must be readable in bounds.
#include <cstdint>
#include <vector>

#include "model/architecture.hpp"
#include "model/gguf.hpp"

using namespace troupe::model;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  auto parsed = parse_gguf(std::as_bytes(std::span(data, size)), "fuzz");
  if (!parsed) return 0;
  model_source source;
  source.meta = parsed->meta;
  source.tensors = std::move(parsed->tensors);
  for (const auto& [key, value] : source.meta->values()) {
    // Every way to ask for a value ends in a value or an error.
    static_cast<void>(source.meta->get<std::uint32_t>(key));
    static_cast<void>(source.meta->get<float>(key));
    static_cast<void>(source.meta->get<std::string>(key));
    static_cast<void>(source.meta->numbers<std::int32_t>(key));
    static_cast<void>(source.meta->strings(key));
  }
  auto arch = architecture_of(source);
  if (!arch) return 0;
  auto config = read_config(**arch, source);
  if (!config) return 0;
  static_cast<void>(frequencies(config->rope));
  auto weights = bind_weights(**arch, *config, source);
  if (!weights) return 0;
  std::vector<float> row(weights->embed_tokens.columns);
  dequantize_row(weights->embed_tokens, weights->embed_tokens.rows - 1, row);
  return 0;
}
