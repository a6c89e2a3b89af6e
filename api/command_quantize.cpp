#include <cstdio>

#include "api/commands.hpp"
#include "model/quantize.hpp"
#include "model/remake.hpp"

namespace troupe::api {
namespace {

result<std::optional<model::tensor_type>> type_of(const std::string& name, const char* flag) {
  if (name == "keep") return std::optional<model::tensor_type>();
  const auto type = model::find_writable_type(name);
  if (!type)
    return fail(ec::invalid_argument, std::string(flag) + " '" + name +
                                          "': use F32, F16, BF16, Q8_0, Q5_1, Q5_0, Q4_1, Q4_0 "
                                          "or keep");
  return type;
}

}  // namespace

int run_command(const quantize_config& c) {
  if (auto ok = check_output(c.in, c.out); !ok) return complain(ok.error(), exit_configuration);
  model::requantize_options options;
  auto type = type_of(c.type, "--type");
  if (!type) return complain(type.error(), exit_configuration);
  auto embeddings =
      type_of(c.embedding_type.empty() ? c.type : c.embedding_type, "--embedding-type");
  if (!embeddings) return complain(embeddings.error(), exit_configuration);
  options.matrices = *type;
  options.embeddings = *embeddings;
  auto made = model::quantize_model(c.in, c.out, options);
  if (!made) return complain(made.error(), exit_model);
  std::printf("%s: %.1f MB of %.1f MB, %u tensors changed, %u kept\n", c.out.c_str(),
              static_cast<double>(made->bytes_after) / 1e6,
              static_cast<double>(made->bytes_before) / 1e6, made->tensors_changed,
              made->tensors_kept);
  return exit_clean;
}

}  // namespace troupe::api
