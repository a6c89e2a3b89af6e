// The tiny model as a Hugging Face directory: config.json and model.safetensors, no tokenizer.json. The same bytes of
// weights as tiny_gguf.hpp writes (of F32, F16 or BF16). Header only, any room.
#pragma once

#include <nlohmann/json.hpp>
#include <numeric>

#include "model/architecture.hpp"
#include "tests/model/tiny_gguf.hpp"

namespace troupe::testing {

// Every field is public so that a test can break exactly one.
struct safetensors_writer {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  std::vector<std::byte> data;

  // `shape`: rows first, as Hugging Face writes it.
  void add(const std::string& name, const std::string& dtype,
           const std::vector<std::uint64_t>& shape, std::span<const std::byte> content) {
    header[name] = {{"dtype", dtype},
                    {"shape", shape},
                    {"data_offsets", {data.size(), data.size() + content.size()}}};
    data.insert(data.end(), content.begin(), content.end());
  }
  std::vector<std::byte> finish() const { return finish(header.dump()); }
  std::vector<std::byte> finish(std::string text) const {
    byte_writer out;
    out.put_string(text).put_raw(data);
    return std::move(out.bytes);
  }
};

inline std::string hugging_face_name(const model::architecture& arch, const std::string& gguf) {
  for (const auto& slot : arch.global)
    if (slot.gguf == gguf) return std::string(slot.hugging_face);
  const auto dot = gguf.find('.', 4);  // "blk.N."
  for (const auto& slot : arch.layer)
    if (slot.gguf == gguf.substr(dot + 1))
      return "model.layers." + gguf.substr(4, dot - 4) + "." + std::string(slot.hugging_face);
  throw std::runtime_error("no Hugging Face name for " + gguf);
}

inline safetensors_writer tiny_safetensors(const tiny_model& m = {}) {
  const auto& arch = *model::find_architecture(m.architecture);
  const gguf_writer file = tiny_gguf(m);
  safetensors_writer out;
  for (std::size_t i = 0; i < file.tensors.size(); ++i) {
    const auto& t = file.tensors[i];
    const auto* type = model::find_tensor_type(t.type);
    std::vector<std::uint64_t> shape(t.shape.rbegin(), t.shape.rend());
    const auto count =
        std::accumulate(shape.begin(), shape.end(), std::uint64_t{1}, std::multiplies<>());
    out.add(hugging_face_name(arch, t.name), std::string(type->name), shape,
            std::span(file.data).subspan(t.offset, count * type->block_bytes));
  }
  return out;
}

inline nlohmann::json tiny_config(const tiny_model& m = {}) {
  return {{"architectures", {model::find_architecture(m.architecture)->hugging_face[0]}},
          {"hidden_act", "silu"},
          {"num_hidden_layers", m.num_hidden_layers},
          {"hidden_size", m.hidden_size},
          {"intermediate_size", m.intermediate_size},
          {"num_attention_heads", m.num_attention_heads},
          {"num_key_value_heads", m.num_key_value_heads},
          {"head_dim", m.head_dim},
          {"max_position_embeddings", m.context},
          {"rms_norm_eps", 1e-5},
          {"rope_theta", m.rope_theta},
          {"vocab_size", tiny_vocab_size},
          {"tie_word_embeddings", m.tied},
          {"bos_token_id", 1},
          {"eos_token_id", 2}};
}

inline void write_tiny_hugging_face(const std::filesystem::path& directory,
                                    const tiny_model& m = {}) {
  std::filesystem::create_directories(directory);
  write_file(directory / "config.json", tiny_config(m).dump());
  write_file(directory / "model.safetensors", tiny_safetensors(m).finish());
}

}  // namespace troupe::testing
