#include "model/safetensors.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "model/byte_cursor.hpp"
#include "model/strict_json.hpp"

namespace troupe::model {

namespace {

using nlohmann::json;

constexpr std::uint64_t max_header_bytes = 100'000'000;

std::optional<std::uint32_t> ggml_type(std::string_view dtype) {
  struct pair {
    std::string_view dtype;
    std::uint32_t raw;
  };
  for (auto [name, raw] : {pair{"F32", 0},
                           {"F16", 1},
                           {"BF16", 30},
                           {"F8_E4M3", 1000},
                           {"I8", 24},
                           {"I16", 25},
                           {"I32", 26},
                           {"I64", 27},
                           {"F64", 28}})
    if (name == dtype) return raw;
  return std::nullopt;
}

struct placed {
  stored_tensor tensor;
  std::uint64_t begin = 0, end = 0;
};

tl::unexpected<error> corrupt(const std::string& source, const std::string& name,
                              std::string_view what) {
  return fail(ec::corrupt_file, source + ": tensor " + printable(name) + " " + std::string(what));
}

result<void> read_shape(const json& shape, const std::string& source, stored_tensor& into) {
  if (!shape.is_array() || shape.size() > 4)
    return corrupt(source, into.name, "must have a 'shape' of at most 4 dimensions");
  into.dimensions = std::max<std::uint32_t>(1, static_cast<std::uint32_t>(shape.size()));
  for (std::size_t i = 0; i < shape.size(); ++i) {
    const auto& extent = shape[shape.size() - 1 - i];
    if (!extent.is_number_unsigned())
      return corrupt(source, into.name, "has a dimension that is no 64-bit count");
    into.shape[i] = extent.get<std::uint64_t>();
  }
  return {};
}

result<placed> read_entry(const std::string& name, const json& entry, const std::string& source) {
  placed out;
  out.tensor.name = name;
  if (name.empty() || name.size() > 256)
    return corrupt(source, name, "must have a name of 1 to 256 bytes");
  if (!entry.is_object() || entry.size() != 3 || !entry.contains("dtype") ||
      !entry.contains("shape") || !entry.contains("data_offsets"))
    return corrupt(source, name, "must have exactly 'dtype', 'shape' and 'data_offsets'");
  const auto& dtype = entry["dtype"];
  if (!dtype.is_string()) return corrupt(source, name, "has a 'dtype' that is no string");
  auto raw = ggml_type(dtype.get_ref<const std::string&>());
  if (!raw)
    return fail(ec::unsupported,
                source + ": tensor " + printable(name) + " has dtype " +
                    printable(dtype.get_ref<const std::string&>()) +
                    "; this build runs F32, F16, BF16 and F8_E4M3, or a quantized GGUF");
  out.tensor.raw_type = *raw;
  TROUPE_CHECK(read_shape(entry["shape"], source, out.tensor));
  const auto& offsets = entry["data_offsets"];
  if (!offsets.is_array() || offsets.size() != 2 || !offsets[0].is_number_unsigned() ||
      !offsets[1].is_number_unsigned())
    return corrupt(source, name, "must have two 64-bit counts as 'data_offsets'");
  out.begin = offsets[0].get<std::uint64_t>();
  out.end = offsets[1].get<std::uint64_t>();
  auto bytes = stored_bytes(out.tensor);
  if (!bytes) return fail(bytes.error().code, source + ": " + bytes.error().detail);
  if (out.end < out.begin || out.end - out.begin != *bytes)
    return corrupt(
        source, name,
        "has 'data_offsets' that are not the " + std::to_string(*bytes) + " bytes of its shape");
  return out;
}

}  // namespace

result<std::vector<stored_tensor>> parse_safetensors(std::span<const std::byte> bytes,
                                                     const std::string& source) {
  byte_cursor cursor(bytes, source);
  TROUPE_TRY(auto length, cursor.read<std::uint64_t>("the header's length"));
  if (length > max_header_bytes)
    return fail(ec::corrupt_file,
                source + ": the header is " + std::to_string(length) +
                    " bytes long, the format allows 100 MB; this is no safetensors file");
  TROUPE_TRY(auto header, cursor.take(length, "the header"));
  const std::string_view text(reinterpret_cast<const char*>(header.data()), header.size());
  if (!text.starts_with('{'))
    return fail(ec::corrupt_file, source + ": the header does not begin with '{'");
  TROUPE_TRY(auto root, parse_strict_json(text, source, {.depth = 3, .values = 1'000'000}));
  const auto data = bytes.subspan(cursor.position());
  std::vector<placed> entries;
  for (const auto& [name, entry] : root.items()) {
    if (name == "__metadata__") continue;
    TROUPE_TRY(auto one, read_entry(name, entry, source));
    entries.push_back(std::move(one));
  }
  std::sort(entries.begin(), entries.end(), [](auto& a, auto& b) { return a.begin < b.begin; });
  std::vector<stored_tensor> tensors;
  tensors.reserve(entries.size());
  std::uint64_t covered = 0;
  for (auto& [tensor, begin, end] : entries) {
    if (begin != covered)
      return corrupt(source, tensor.name,
                     begin < covered ? "overlaps another tensor" : "leaves a gap before it");
    if (end > data.size())
      return corrupt(source, tensor.name, "ends past the end of the file; download it again");
    tensor.data = data.subspan(begin, end - begin);
    covered = end;
    tensors.push_back(std::move(tensor));
  }
  if (covered != data.size())
    return fail(ec::corrupt_file, source + ": " + std::to_string(data.size() - covered) +
                                      " bytes at the end belong to no tensor");
  return tensors;
}

}  // namespace troupe::model
