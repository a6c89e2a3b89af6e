#include "api/errors.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

namespace troupe::api {
namespace {

TEST(errors, each_code_has_its_row) {
  const std::map<ec, int> statuses{{ec::invalid_argument, 400},
                                   {ec::context_exceeded, 400},
                                   {ec::unsupported, 400},
                                   {ec::not_found, 404},
                                   {ec::unauthorized, 401},
                                   {ec::queue_full, 503},
                                   {ec::overloaded, 429},
                                   {ec::out_of_memory, 503},
                                   {ec::draining, 503},
                                   {ec::no_worker, 503},
                                   {ec::canceled, 503},
                                   {ec::deadline_exceeded, 504},
                                   {ec::peer_lost, 500},
                                   {ec::device_lost, 500},
                                   {ec::internal, 500},
                                   {ec::io_error, 500},
                                   {ec::corrupt_file, 500},
                                   {ec::fence_mismatch, 500},
                                   {ec::identity_mismatch, 500},
                                   {ec::address_in_use, 500},
                                   {ec::none, 500},
                                   {ec::poison, 400}};
  EXPECT_EQ(statuses.size(), static_cast<std::size_t>(ec::poison) + 1) << "a new code needs a row";
  for (auto [code, status] : statuses) {
    const auto e = from_error({code, "x"});
    EXPECT_EQ(e.status, status) << to_string(code);
    EXPECT_EQ(e.status == 503 || e.status == 429, e.retry_after > 0) << to_string(code);
    EXPECT_FALSE(e.message.empty());
  }
}

TEST(errors, our_faults_say_nothing_about_the_inside) {
  for (int i = 0; i <= static_cast<int>(ec::internal); ++i) {
    const auto code = static_cast<ec>(i);
    const auto e = from_error({code, "/home/x/model.gguf at 10.0.0.7:9000 0x7ffe"});
    if (e.status == 400) continue;  // written for the client
    EXPECT_EQ(to_json_text(e).find("/home"), std::string::npos) << to_string(code);
  }
}

TEST(errors, have_the_shape_that_sdks_read) {
  const auto body =
      nlohmann::json::parse(to_json_text(bad_field("temperature", "must be\n\xff finite")));
  EXPECT_EQ(body["error"]["param"], "temperature");
  EXPECT_EQ(body["error"]["type"], "invalid_request_error");
  EXPECT_EQ(body["error"]["code"], "invalid_value");
  EXPECT_EQ(body["error"].size(), 4u);
  EXPECT_TRUE(
      nlohmann::json::parse(to_json_text(http_error(404, "x")))["error"]["param"].is_null());
}

TEST(errors, a_field_is_read_from_the_detail) {
  EXPECT_EQ(from_error({ec::invalid_argument, "top_p: must be in (0, 1]"}).param, "top_p");
  EXPECT_EQ(from_error({ec::invalid_argument, "No field here: x"}).param, "");
}

}  // namespace
}  // namespace troupe::api
