#include "api/migration_hints.hpp"

#include <gtest/gtest.h>

#include "api/command_line.hpp"
#include "fakes.hpp"

namespace troupe::api::testing {
namespace {

TEST(migration_hints, flags_of_others_are_answered_with_ours) {
  const auto text = [](const std::vector<std::string>& arguments) {
    const auto parsed = parse_command_line(arguments);
    EXPECT_FALSE(parsed.what);
    EXPECT_EQ(parsed.exit_code, exit_configuration);
    return parsed.text;
  };
  EXPECT_NE(text({"serve", "--gpu-memory-utilization", "0.9"}).find("--gpu-memory-fraction"),
            std::string::npos);
  EXPECT_NE(text({"serve", "--ctx-size=4096"}).find("--max-model-len"), std::string::npos);
  EXPECT_NE(text({"serve", "-ngl", "99"}).find("--device"), std::string::npos);
  EXPECT_NE(text({"serve", "--prefil", "1"}).find("did you mean --prefill"), std::string::npos);
}

// A hint that names a flag which is not there would be worse than none.
TEST(migration_hints, name_only_what_is_there) {
  const auto help = parse_command_line({"serve", "--help"}).text;
  for (const char* flag : {"--gpu-memory-utilization", "-dp", "-tp", "--uvicorn-log-level", "-md",
                           "--speculative-config", "-c", "-ngl", "-np", "-t", "-b", "-a", "-m"}) {
    const std::string hint(hint_for_flag(flag));
    ASSERT_FALSE(hint.empty()) << flag;
    for (auto at = hint.find("--"); at != hint.npos; at = hint.find("--", at + 2)) {
      const auto name =
          hint.substr(at, hint.find_first_not_of("-abcdefghijklmnopqrstuvwxyz", at) - at);
      EXPECT_NE(help.find(name), help.npos) << name;
    }
  }
  EXPECT_TRUE(hint_for_flag("--port").empty());
}

TEST(migration_hints, paths_of_others_are_answered_with_ours) {
  door d;
  const auto message = [&](const char* method, const char* path) {
    const auto x = d.ask(method, path);
    EXPECT_EQ(x->response.status, 404) << path;
    return json_of(*x)["error"]["message"].get<std::string>();
  };
  EXPECT_NE(message("POST", "/completion").find("/v1/completions"), std::string::npos);
  EXPECT_NE(message("POST", "/chat/completions/").find("/v1/chat/completions"), std::string::npos);
  EXPECT_NE(message("POST", "/v1/embeddings").find("no embeddings"), std::string::npos);
  EXPECT_NE(message("GET", "/healthz").find("/health"), std::string::npos);
  EXPECT_NE(message("POST", "/v1/images/generations").find("images"), std::string::npos);
  EXPECT_NE(message("GET", "/v1/models/").find("slash at the end"), std::string::npos);
  EXPECT_EQ(message("GET", "/nothing"), "There is nothing at this URL.");
}

}  // namespace
}  // namespace troupe::api::testing
