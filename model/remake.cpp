#include "model/remake.hpp"

#include <charconv>
#include <unordered_map>

#include "model/gguf.hpp"
#include "model/gguf_write.hpp"
#include "model/quantize.hpp"
#include "model/trimmed_head.hpp"

namespace troupe::model {
namespace {

constexpr std::string_view layer_prefix = "blk.";

// GGUF's general.file_type (llama.cpp's llama_ftype): for people, readers go by the tensors.
std::uint32_t file_type(tensor_type t) {
  switch (t) {
    case tensor_type::f16:
      return 1;
    case tensor_type::q4_0:
      return 2;
    case tensor_type::q4_1:
      return 3;
    case tensor_type::q8_0:
      return 7;
    case tensor_type::q5_0:
      return 8;
    case tensor_type::q5_1:
      return 9;
    case tensor_type::bf16:
      return 32;
    default:
      return 0;
  }
}

// What shards say of themselves is not true of the whole.
metadata_changes changes_of() {
  metadata_changes c;
  c.left_out = {"split.no", "split.count", "split.tensors.count"};
  return c;
}

gguf_tensor as_it_is(const stored_tensor& t) {
  return {t, [data = t.data](const gguf_tensor::piece_sink& write) { return write(data); }};
}

gguf_tensor converted(const stored_tensor& t, tensor_type to) {
  gguf_tensor out{t, {}};
  out.entry.raw_type = static_cast<std::uint32_t>(to);
  out.bytes = [t, to](const gguf_tensor::piece_sink& write) -> result<void> {
    tensor source{t.name, static_cast<tensor_type>(t.raw_type), 1, t.shape[0], t.data};
    for (std::uint32_t d = 1; d < t.dimensions; ++d) source.rows *= t.shape[d];
    const auto& about = info(to);
    std::vector<float> row(source.columns);
    std::vector<std::byte> blocks(source.columns / about.block_size * about.block_bytes);
    for (std::uint64_t r = 0; r < source.rows; ++r) {
      dequantize_row(source, r, row);
      quantize_row(to, row, blocks);
      TROUPE_CHECK(write(blocks));
    }
    return {};
  };
  return out;
}

result<model_source> open_gguf(const std::filesystem::path& in) {
  std::error_code ignored;
  if (std::filesystem::is_directory(in, ignored))
    return fail(ec::unsupported,
                "'" + in.string() + "' is a directory: only GGUF files can be made into others");
  return read_gguf(in);
}

result<void> verify(const model_source& source) {
  for (const auto& f : source.files) TROUPE_CHECK(f->verify());
  return {};
}

// The number in "blk.12.attn_q.weight" and what follows it.
struct layer_name {
  std::uint32_t layer;
  std::string rest;
};
std::optional<layer_name> layer_of(const std::string& name) {
  if (!name.starts_with(layer_prefix)) return std::nullopt;
  layer_name out{0, {}};
  const char* begin = name.data() + layer_prefix.size();
  const auto [end, code] = std::from_chars(begin, name.data() + name.size(), out.layer);
  if (code != std::errc{} || end == begin || *end != '.') return std::nullopt;
  out.rest = end;
  return out;
}

const stored_tensor* find(const model_source& source, std::string_view name) {
  for (const stored_tensor& t : source.tensors)
    if (t.name == name) return &t;
  return nullptr;
}

// The output of these tokens, taken from the output, or from the embeddings where they are the output too.
result<gguf_tensor> trimmed_output(const model_source& source,
                                   const std::vector<std::uint32_t>& tokens) {
  const stored_tensor* from = find(source, "output.weight");
  if (from == nullptr) from = find(source, "token_embd.weight");
  if (from == nullptr || find_tensor_type(from->raw_type) == nullptr)
    return fail(ec::unsupported, source.meta->source() + ": this build does not read its output");
  if (source.meta->contains(output_tokens_key))
    return fail(ec::invalid_argument, source.meta->source() + ": its output is trimmed already");
  const auto& about = info(static_cast<tensor_type>(from->raw_type));
  const std::size_t row = from->shape[0] / about.block_size * about.block_bytes;
  for (std::size_t i = 0; i < tokens.size(); ++i)
    if (tokens[i] >= from->shape[1] || (i > 0 && tokens[i] <= tokens[i - 1]))
      return fail(ec::invalid_argument,
                  "output tokens must ascend and be below " + std::to_string(from->shape[1]));
  gguf_tensor out{*from, {}};
  out.entry.name = "output.weight";
  out.entry.shape[1] = tokens.size();
  out.bytes = [data = from->data, row,
               tokens](const gguf_tensor::piece_sink& sink) -> result<void> {
    for (const std::uint32_t t : tokens) TROUPE_CHECK(sink(data.subspan(t * row, row)));
    return {};
  };
  return out;
}

result<remade> write(const std::filesystem::path& out, const model_source& source,
                     const metadata_changes& changes, const std::vector<gguf_tensor>& tensors,
                     remade summary) {
  summary.bytes_before = source.file_bytes;
  TROUPE_TRY(summary.bytes_after, write_gguf(out, *source.meta, changes, tensors));
  TROUPE_CHECK(verify(source));
  return summary;
}

}  // namespace

result<remade> quantize_model(const std::filesystem::path& in, const std::filesystem::path& out,
                              const requantize_options& options) {
  TROUPE_TRY(const auto source, open_gguf(in));
  remade summary;
  std::vector<gguf_tensor> tensors;
  for (const stored_tensor& t : source.tensors) {
    const bool embeds = t.name == "token_embd.weight" || t.name == "output.weight";
    const auto to = embeds ? options.embeddings : options.matrices;
    const bool fits = to && t.dimensions >= 2 && t.shape[0] % info(*to).block_size == 0 &&
                      t.raw_type != static_cast<std::uint32_t>(*to);
    if (fits && find_tensor_type(t.raw_type) == nullptr)
      return fail(ec::unsupported, "'" + in.string() + "': this build does not read the type of " +
                                       printable(t.name));
    tensors.push_back(fits ? converted(t, *to) : as_it_is(t));
    ++(fits ? summary.tensors_changed : summary.tensors_kept);
  }
  metadata_changes changes = changes_of();
  if (options.matrices) changes.numbers["general.file_type"] = file_type(*options.matrices);
  changes.numbers["general.quantization_version"] = 2;
  return write(out, source, changes, tensors, summary);
}

result<remade> prune_model(const std::filesystem::path& in, const std::filesystem::path& out,
                           const std::vector<std::uint32_t>& layers,
                           const std::vector<std::uint32_t>& output_tokens) {
  TROUPE_TRY(const auto source, open_gguf(in));
  TROUPE_TRY(const auto architecture, source.meta->get<std::string>("general.architecture"));
  const std::string count_key = architecture + ".block_count";
  TROUPE_TRY(const auto num_layers, source.meta->get<std::uint32_t>(count_key));
  std::unordered_map<std::uint32_t, std::uint32_t> place;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    if (layers[i] >= num_layers || (i > 0 && layers[i] <= layers[i - 1]))
      return fail(ec::invalid_argument,
                  "layers must ascend and be below " + std::to_string(num_layers));
    place[layers[i]] = static_cast<std::uint32_t>(i);
  }
  if (layers.empty()) return fail(ec::invalid_argument, "at least one layer must stay");
  for (const auto& [key, value] : source.meta->values())
    if (key.starts_with(architecture + ".") && value.type == value_type::array &&
        value.count() == num_layers && num_layers > 1)
      return fail(ec::unsupported, "'" + in.string() + "': " + key +
                                       " has a value for each layer; such models cannot be pruned");
  remade summary;
  std::vector<gguf_tensor> tensors;
  for (const stored_tensor& t : source.tensors) {
    if (t.name == "output.weight" && !output_tokens.empty()) continue;
    gguf_tensor copy = as_it_is(t);
    if (const auto name = layer_of(t.name)) {
      const auto to = place.find(name->layer);
      if (to == place.end()) {
        ++summary.tensors_changed;
        continue;
      }
      copy.entry.name = std::string(layer_prefix) + std::to_string(to->second) + name->rest;
    }
    tensors.push_back(std::move(copy));
    ++summary.tensors_kept;
  }
  metadata_changes changes = changes_of();
  if (!output_tokens.empty()) {
    TROUPE_TRY(auto output, trimmed_output(source, output_tokens));
    tensors.push_back(std::move(output));
    changes.lists[std::string(output_tokens_key)] = output_tokens;
    ++summary.tensors_changed;
  }
  changes.numbers[count_key] = static_cast<std::uint32_t>(layers.size());
  TROUPE_TRY(const auto name, source.meta->get_or<std::string>("general.name", architecture));
  changes.texts["general.name"] =
      name + ", " + std::to_string(layers.size()) + " of " + std::to_string(num_layers) + " layers";
  return write(out, source, changes, tensors, summary);
}

result<std::vector<std::uint32_t>> parse_layers(std::string_view text, std::uint32_t num_layers) {
  std::vector<std::uint32_t> out;
  const auto bad = [&](const std::string& why) {
    return fail(ec::invalid_argument, "layers '" + std::string(text) + "': " + why);
  };
  for (std::size_t at = 0; at <= text.size();) {
    const std::size_t comma = std::min(text.find(',', at), text.size());
    const std::string_view part = text.substr(at, comma - at);
    at = comma + 1;
    std::uint32_t first = 0, last = 0;
    const char* const end = part.data() + part.size();
    auto [stop, code] = std::from_chars(part.data(), end, first);
    if (code != std::errc{}) return bad("use numbers and ranges with commas, as in 0-9,28,29");
    last = first;
    if (stop != end && *stop == '-') {
      const auto second = std::from_chars(stop + 1, end, last);
      if (second.ec != std::errc{}) return bad("a range needs an end");
      stop = second.ptr;
    }
    if (stop != end || last < first)
      return bad("use numbers and ranges with commas, as in 0-9,28,29");
    if (last >= num_layers)
      return bad("the model has layers 0 to " + std::to_string(num_layers - 1));
    for (std::uint32_t l = first; l <= last; ++l) {
      if (!out.empty() && l <= out.back()) return bad("layers must ascend");
      out.push_back(l);
    }
  }
  return out;
}

}  // namespace troupe::model
