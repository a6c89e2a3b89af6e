#include <cstdio>
#include <string>

#include "api/commands.hpp"
#include "api/openai_objects.hpp"
#include "api/serving.hpp"

namespace troupe::api {

int run_command(const tokenize_config& c) {
  if (auto ok = start_logging({"error", "text", ""}); !ok)
    return complain(ok.error(), exit_configuration);
  auto opened = open_model_file(c.model, 0);
  if (!opened) return complain(opened.error().cause, opened.error().exit_code);
  auto made = model::tokenizer::make(*opened->loaded);
  if (!made) return complain(made.error(), exit_model);
  const auto& tokenizer = **made;
  for (token_id id : tokenizer.encode(c.text, c.special))
    std::printf("%8u  %s\n", id,
                nlohmann::ordered_json(tokenizer.token_bytes(id, true))
                    .dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace)
                    .c_str());
  return exit_clean;
}

}  // namespace troupe::api
