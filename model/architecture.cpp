#include "model/architecture.hpp"

#include <array>
#include <unordered_map>

#include "model/trimmed_head.hpp"

namespace troupe::model {

namespace {

const std::array<const architecture*, 3> architectures = {&llama_architecture, &qwen2_architecture,
                                                          &qwen3_architecture};

using tensor_index = std::unordered_map<std::string_view, const stored_tensor*>;

tl::unexpected<error> bad(const model_source& source, ec code, std::string detail) {
  return fail(code, source.meta->source() + ": " + std::move(detail));
}

// The stored tensor as one that devices take: type readable, shape as the config says.
result<tensor> shaped(const model_source& source, const stored_tensor& entry, std::uint64_t rows,
                      std::uint64_t columns) {
  auto* type = find_tensor_type(entry.raw_type);
  if (!type)
    return bad(source, ec::unsupported,
               "tensor " + printable(entry.name) + " is " +
                   std::string(find_stored_type(entry.raw_type)->name) +
                   ", which this build does not compute with; use a file quantized to one of Q4_0, "
                   "Q4_1, Q5_0, Q5_1, "
                   "Q8_0, Q4_K, Q5_K, Q6_K or kept in F32, F16, BF16, or safetensors in F8_E4M3");
  const std::uint64_t stored_rows = entry.shape[1] * entry.shape[2] * entry.shape[3];
  if (stored_rows != rows || entry.shape[0] != columns)
    return bad(source, ec::corrupt_file,
               "tensor " + printable(entry.name) + " has shape [" + std::to_string(stored_rows) +
                   "][" + std::to_string(entry.shape[0]) + "], the file's own settings ask for [" +
                   std::to_string(rows) + "][" + std::to_string(columns) + "]");
  const auto kind = static_cast<tensor_type>(entry.raw_type);
  if (kind == tensor_type::f8_e4m3 && !entry.scales.by_blocks() && entry.scales.count != 1 &&
      entry.scales.count != rows)
    return bad(source, ec::unsupported,
               "tensor " + printable(entry.name) +
                   " is F8_E4M3 with scales that are neither one nor one a row nor one a block of "
                   "the size that config.json tells; use the original weights or a GGUF");
  return tensor{entry.name, kind, rows, columns, entry.data, entry.scales};
}

// As the config says, but that the output may be of some tokens only.
result<std::uint64_t> rows_of(std::string_view name, extent rows, const model_config& config,
                              const model_source& source) {
  const std::uint64_t all = size_of(rows, config);
  if (name != "output.weight") return all;
  TROUPE_TRY(const auto tokens, output_tokens(*source.meta, config.vocab_size));
  return tokens.empty() ? all : tokens.size();
}

template <class Owner>
result<void> fill_slots(const architecture& arch, std::span<const weight_slot<Owner>> slots,
                        const std::string& prefix, const model_config& config,
                        const model_source& source, tensor_index& left, Owner& owner) {
  for (const auto& slot : slots) {
    const std::string name = prefix + std::string(slot.gguf);
    auto found = left.find(name);
    if (found == left.end()) {
      if (slot.optional) continue;
      return bad(source, ec::corrupt_file,
                 "the tensor '" + name + "' is missing, which every " + std::string(arch.name) +
                     " model needs; the file is incomplete or of another architecture");
    }
    TROUPE_TRY(const std::uint64_t rows, rows_of(name, slot.rows, config, source));
    TROUPE_TRY(owner.*slot.member,
               shaped(source, *found->second, rows, size_of(slot.columns, config)));
    left.erase(found);
  }
  return {};
}

}  // namespace

std::uint64_t size_of(extent which, const model_config& config) {
  switch (which) {
    case extent::one:
      return 1;
    case extent::vocab:
      return config.vocab_size;
    case extent::hidden:
      return config.hidden_size;
    case extent::intermediate:
      return config.intermediate_size;
    case extent::query:
      return std::uint64_t{config.num_attention_heads} * config.head_dim;
    case extent::key_value:
      return std::uint64_t{config.num_key_value_heads} * config.head_dim;
    case extent::head:
      return config.head_dim;
  }
  return 0;
}

const architecture* find_architecture(std::string_view name) {
  for (auto* arch : architectures)
    if (arch->name == name) return arch;
  return nullptr;
}

const architecture* find_hugging_face_architecture(std::string_view class_name) {
  for (auto* arch : architectures)
    for (auto known : arch->hugging_face)
      if (known == class_name) return arch;
  return nullptr;
}

std::string supported_architectures() {
  std::string list;
  for (auto* arch : architectures) list += (list.empty() ? "" : ", ") + std::string(arch->name);
  return list;
}

result<const architecture*> architecture_of(const model_source& source) {
  TROUPE_TRY(auto name, source.meta->get<std::string_view>("general.architecture"));
  if (auto* arch = find_architecture(name)) return arch;
  return bad(source, ec::unsupported,
             "the architecture " + printable(name) + " is not one that this build runs: it runs " +
                 supported_architectures());
}

result<model_weights> bind_weights(const architecture& arch, const model_config& config,
                                   const model_source& source) {
  tensor_index left;
  for (const auto& entry : source.tensors) left.emplace(entry.name, &entry);
  left.erase("rope_freqs.weight");  // read_config has taken it
  model_weights weights;
  TROUPE_CHECK(fill_slots(arch, arch.global, "", config, source, left, weights));
  if (!weights.lm_head.exists()) weights.lm_head = weights.embed_tokens;
  weights.layers.resize(config.num_hidden_layers);
  for (std::uint32_t i = 0; i < config.num_hidden_layers; ++i)
    TROUPE_CHECK(fill_slots(arch, arch.layer, "blk." + std::to_string(i) + ".", config, source,
                            left, weights.layers[i]));
  // The first in the file's order, so that the message does not depend on hashing.
  for (const auto& entry : source.tensors)
    if (left.contains(entry.name))
      return bad(source, ec::unsupported,
                 "tensor " + printable(entry.name) + " has no place in a " +
                     std::string(arch.name) +
                     " model of this build; the file holds a variant that it cannot run");
  return weights;
}

}  // namespace troupe::model
