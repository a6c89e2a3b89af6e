// What makes the bytes of a KV block meaningful: the model and the layout. Nodes whose identities are equal exchange
// blocks; a cache salt and the tokens come on top (engine/prefix_index.hpp). Any thread.
#pragma once

#include <optional>
#include <string_view>

#include "actors/messages.hpp"
#include "base/hash.hpp"
#include "gpu/kv_layout.hpp"
#include "model/model.hpp"

namespace troupe::actors {

// quantization: what the device makes of the model's weights (runner_options), for it changes the values.
hash128_t kv_identity_of(const model::loaded_model& model, const gpu::kv_layout& layout,
                         std::string_view quantization = {});
// node_info::kv_identity back; nullopt: it is none.
std::optional<hash128_t> parse_identity(std::string_view hex);
// The same for people.
std::string identity_text_of(const node_info& info, const gpu::kv_layout& layout);

}  // namespace troupe::actors
