#include "model/tensor.hpp"

#include "model/stored_tensor.hpp"

namespace troupe::model {

namespace {

struct stored_type {
  std::uint32_t raw;
  tensor_type_info info;
  bool readable;
};

// Block sizes and bytes: ggml's `type_traits` (ggml.c) and the `gguf` Python package's
// GGML_QUANT_SIZES.
constexpr stored_type types[] = {
    {0, {"F32", 1, 4}, true},          {1, {"F16", 1, 2}, true},
    {2, {"Q4_0", 32, 18}, true},       {3, {"Q4_1", 32, 20}, true},
    {6, {"Q5_0", 32, 22}, true},       {7, {"Q5_1", 32, 24}, true},
    {8, {"Q8_0", 32, 34}, true},       {9, {"Q8_1", 32, 40}, false},
    {10, {"Q2_K", 256, 84}, false},    {11, {"Q3_K", 256, 110}, false},
    {12, {"Q4_K", 256, 144}, true},    {13, {"Q5_K", 256, 176}, true},
    {14, {"Q6_K", 256, 210}, true},    {15, {"Q8_K", 256, 292}, false},
    {16, {"IQ2_XXS", 256, 66}, false}, {17, {"IQ2_XS", 256, 74}, false},
    {18, {"IQ3_XXS", 256, 98}, false}, {19, {"IQ1_S", 256, 50}, false},
    {20, {"IQ4_NL", 32, 18}, false},   {21, {"IQ3_S", 256, 110}, false},
    {22, {"IQ2_S", 256, 82}, false},   {23, {"IQ4_XS", 256, 136}, false},
    {24, {"I8", 1, 1}, false},         {25, {"I16", 1, 2}, false},
    {26, {"I32", 1, 4}, false},        {27, {"I64", 1, 8}, false},
    {28, {"F64", 1, 8}, false},        {29, {"IQ1_M", 256, 56}, false},
    {30, {"BF16", 1, 2}, true},        {34, {"TQ1_0", 256, 54}, false},
    {35, {"TQ2_0", 256, 66}, false},   {39, {"MXFP4", 32, 17}, false},
    {1000, {"F8_E4M3", 1, 1}, true},
};

const stored_type* find(std::uint32_t raw) {
  for (const auto& type : types)
    if (type.raw == raw) return &type;
  return nullptr;
}

}  // namespace

const tensor_type_info* find_stored_type(std::uint32_t raw) {
  auto* type = find(raw);
  return type ? &type->info : nullptr;
}

const tensor_type_info* find_tensor_type(std::uint32_t raw) {
  auto* type = find(raw);
  return type && type->readable ? &type->info : nullptr;
}

const tensor_type_info& info(tensor_type type) {
  auto* found = find_tensor_type(static_cast<std::uint32_t>(type));
  TROUPE_ASSERT(found != nullptr);
  return *found;
}

result<std::uint64_t> stored_bytes(const stored_tensor& entry) {
  const std::string name = "tensor " + printable(entry.name);
  auto* type = find_stored_type(entry.raw_type);
  if (!type)
    return fail(ec::unsupported,
                name + " has type " + std::to_string(entry.raw_type) +
                    ", which is no ggml type that this build knows; convert the model again "
                    "to one of Q4_K, Q5_K, Q6_K, Q8_0, F16, BF16");
  if (entry.dimensions < 1 || entry.dimensions > 4)
    return fail(ec::corrupt_file,
                name + " has " + std::to_string(entry.dimensions) + " dimensions, not 1 to 4");
  std::uint64_t elements = 1;
  for (std::uint64_t extent : entry.shape) {
    if (extent == 0) return fail(ec::corrupt_file, name + " has a dimension of 0");
    if (__builtin_mul_overflow(elements, extent, &elements))
      return fail(ec::corrupt_file, name + " has dimensions whose product exceeds 64 bits");
  }
  if (entry.shape[0] % type->block_size != 0)
    return fail(ec::corrupt_file, name + " has rows of " + std::to_string(entry.shape[0]) +
                                      " values, not whole blocks of " +
                                      std::to_string(type->block_size) + " (" +
                                      std::string(type->name) + ")");
  std::uint64_t bytes = 0;
  if (__builtin_mul_overflow(elements / type->block_size, type->block_bytes, &bytes))
    return fail(ec::corrupt_file, name + " has a size in bytes that exceeds 64 bits");
  return bytes;
}

std::string printable(std::string_view untrusted) {
  static const char* digits = "0123456789abcdef";
  constexpr std::size_t limit = 80;
  std::string text = "'";
  for (char c : untrusted.substr(0, limit)) {
    auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte < 0x7f && byte != '\'' && byte != '\\') {
      text += c;
    } else {
      text += "\\x";
      text += digits[byte >> 4];
      text += digits[byte & 15];
    }
  }
  return text + (untrusted.size() > limit ? "...'" : "'");
}

}  // namespace troupe::model
