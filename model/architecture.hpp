// What this build can run: per architecture, where each weight lies in a file and which shape it
// must have.
//
// A further architecture with the same graph is one file like architecture_llama.cpp plus one line
// in architecture.cpp's list. Tables are constants: any thread.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "model/config.hpp"
#include "model/metadata.hpp"
#include "model/model.hpp"
#include "model/source.hpp"

namespace troupe::model {

// A size that the config decides.
enum class extent : std::uint8_t { one, vocab, hidden, intermediate, query, key_value, head };
std::uint64_t size_of(extent which, const model_config& config);

// A weight outside the layers, or in each of them. Names are the parts before ".weight" or ".bias"
// and after "blk.N." (GGUF) or "model.layers.N." (Hugging Face).
template <class Owner>
struct weight_slot {
  std::string_view gguf, hugging_face;
  tensor Owner::*member;
  extent rows, columns;
  bool optional = false;
};

struct architecture {
  std::string_view name;  // GGUF's general.architecture, and prefix of its keys
  std::span<const std::string_view> hugging_face;  // config.json's `architectures`
  bool interleaved_rope = false;                   // how its GGUF stores the rows of q and k
  std::span<const weight_slot<model_weights>> global;
  std::span<const weight_slot<layer_weights>> layer;
};
// Each defined in its architecture_*.cpp.
extern const architecture llama_architecture;
extern const architecture qwen2_architecture;
extern const architecture qwen3_architecture;

const architecture* find_architecture(std::string_view name);
const architecture* find_hugging_face_architecture(std::string_view class_name);
std::string supported_architectures();  // "llama, qwen2, qwen3"

// By general.architecture; unsupported when this build does not run it.
result<const architecture*> architecture_of(const model_source& source);

// Config of a decoder from GGUF's keys under `arch.name`, every field checked for range; `source`
// gives vocab_size, head_dim and tying where the file has no key for them.
result<model_config> read_config(const architecture& arch, const model_source& source);

// Puts each stored tensor into its slot. Refuses a missing or misshapen weight, an unreadable type,
// and any tensor that has no slot: a weight that is silently left out would mean wrong answers.
result<model_weights> bind_weights(const architecture& arch, const model_config& config,
                                   const model_source& source);

}  // namespace troupe::model
