// Runs the Go of docs/sessions-table.md: a function of it by name, with an argument.
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"snippets/sessions"
)

func main() {
	client := dynamodb.New(dynamodb.Options{
		Region:           os.Getenv("AWS_REGION"),
		EndpointResolver: dynamodb.EndpointResolverFromURL(os.Getenv("AWS_ENDPOINT_URL_DYNAMODB")),
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "local", SecretAccessKey: "local"}, nil
		}),
	})
	table := sessions.Table{Client: client, Name: os.Getenv("SESSIONS_TABLE")}
	name, argument := os.Args[1], os.Args[2]
	var result string
	var err error
	switch name {
	case "sign_in":
		result, err = table.SignIn(context.Background(), argument)
	case "check":
		var session map[string]types.AttributeValue
		session, err = table.Check(context.Background(), argument)
		if user, ok := session["user_id"].(*types.AttributeValueMemberS); ok {
			result = user.Value
		}
	case "sign_out":
		err = table.SignOut(context.Background(), argument)
	case "rotate":
		result, err = table.Rotate(context.Background(), argument)
	default:
		log.Fatalf("no function %s", name)
	}
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(result)
}
